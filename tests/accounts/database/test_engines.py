"""PostgreSQL servers and databases whose settings are not those of a new one."""

import psycopg
import pytest
from sqlalchemy import Connection

from dragoman.accounts.administration.accounts import create_account, find_account
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.accounts.database.statements import Statement
from tests.support.ledger_harness import LedgerHarness
from tests.support.postgresql import PostgresServer, new_database

DEFAULTS = {
    "default_transaction_isolation": "serializable",
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "datestyle": "German, DMY",
    "timezone": "Asia/Kathmandu",
    "bytea_output": "escape",
}


def _shown(connection: Connection, name: str) -> object:
    return connection.exec_driver_sql(f"SHOW {name}").scalar_one()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_texts_are_stored_in_a_database_of_another_encoding(postgresql: PostgresServer, encoding: str) -> None:
    name = f"encoded_{encoding.lower()}"
    with psycopg.connect(postgresql.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0".encode())
    database = Database(postgresql.get_uri(name))
    upgrade(database)
    with LedgerHarness(database, name="Äcme") as harness:
        admitted = harness.admit(account="Äcme", model="größer")
        harness.settle(admitted.request_id)
        assert find_account(database, "Äcme").id == harness.account_id
        harness.assert_consistent()
    database.close()


def test_defaults_of_a_database_change_nothing(postgresql: PostgresServer) -> None:
    url = new_database(postgresql)
    with psycopg.connect(url, autocommit=True) as server:
        [(name,)] = server.execute("SELECT current_database()").fetchall()
        for setting, value in DEFAULTS.items():
            server.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'".encode())
    database = Database(url)
    upgrade(database)
    create_account(database, r"back\slash ✓")
    with LedgerHarness(database) as harness, database.read() as connection:
        harness.settle(harness.admit().request_id)
        assert _shown(connection, "transaction_isolation") == "read committed"
        harness.assert_consistent()
    session = database.session()
    session.begin()
    assert session.rows(Statement("SHOW transaction_isolation", ())) == [("read committed",)]
    session.close()
    assert find_account(database, r"back\slash ✓")
    database.close()


def test_options_of_the_url_hold_beside_those_of_the_server(postgresql: PostgresServer) -> None:
    url = f"{new_database(postgresql)}&options=-csearch_path%3Dbooks%20-clock_timeout%3D1h"
    database = Database(url, busy_seconds=2)
    with database.read() as connection:
        assert _shown(connection, "search_path") == "books"
        assert _shown(connection, "lock_timeout") == "2s"
    database.close()
