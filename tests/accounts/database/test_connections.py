import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from dragoman.accounts.administration.accounts import create_account, list_accounts
from dragoman.accounts.database.connections import Database, InvalidDatabaseUrl
from dragoman.accounts.database.statements import compile_statement, in_list
from dragoman.accounts.database.tables import accounts
from dragoman.accounts.ledger.ledger_statements import LedgerStatements
from tests.support.ledger_harness import LedgerHarness


@pytest.mark.parametrize("url", ["", "secret", "mysql://u:secret@h/n", "sqlite://", "postgresql+nothing:secret"])
def test_unsupported_databases_are_refused_without_revealing_a_password(url: str) -> None:
    with pytest.raises(InvalidDatabaseUrl, match=r"sqlite:///… or postgresql://…") as refusal:
        Database(url)
    assert "secret" not in str(refusal.value)


def test_a_transaction_that_fails_leaves_nothing_behind(harness: LedgerHarness) -> None:
    def fail() -> None:
        with harness.database.write() as connection:
            connection.execute(accounts.update().values(name="changed"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert harness.account.name == "acme"


def test_error_messages_do_not_contain_the_rejected_values(database: Database) -> None:
    secret = accounts.insert().values(name="secret", currency="USD", created_at=0, deposits=1)
    with pytest.raises(IntegrityError) as failed, database.write() as connection:
        connection.execute(secret)
    assert "secret" not in str(failed.value).partition("DETAIL")[0]


def test_nested_transactions_are_part_of_the_outer_one(database: Database) -> None:
    def fail() -> None:
        with database.write():
            create_account(database, "lost")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list_accounts(database) == []
    with database.write():
        create_account(database, "kept")
    assert [account.name for account in list_accounts(database)] == ["kept"]


def test_parameters_in_a_wrong_order_are_detected(database: Database) -> None:
    query = accounts.select().where(in_list(database.dialect, accounts.c.id, "ids"), accounts.c.balance > 17)
    with pytest.raises(ValueError, match="takes"):
        compile_statement(query, database.dialect, ("ids",))
    LedgerStatements(database.dialect)


def test_opening_waits_for_another_writer_of_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("CREATE TABLE one (value INTEGER)")
    writer.execute("BEGIN IMMEDIATE")
    threading.Timer(0.2, lambda: writer.execute("COMMIT")).start()
    database = Database(f"sqlite:///{path}")
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    database.close()
    writer.close()
