import sqlite3
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.exc import IntegrityError

from dragoman.accounts.administration.accounts import create_account
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.failures import QUIET_SECONDS, OutageLog, find_outage
from tests.support.captured_logs import capture_logs
from tests.support.ledger_harness import ManualClock


def test_a_full_disk_is_an_outage_that_is_told_in_one_line(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "small.db")
    connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(sqlite3.OperationalError) as full:
        connection.execute("CREATE TABLE one (value TEXT)")
    connection.close()
    assert str(find_outage(full.value)) == "database or disk is full"


@pytest.mark.parametrize("error", [psycopg.errors.AdminShutdown("one\ntwo"), psycopg.InterfaceError("one\ntwo")])
def test_a_message_of_several_lines_is_cut_to_the_first(error: Exception) -> None:
    assert str(find_outage(error)) == "one"


def test_what_a_driver_refuses_by_itself_is_a_defect(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "any.db")
    with pytest.raises(sqlite3.ProgrammingError) as wrong:
        connection.execute("SELECT ?", ())
    connection.close()
    assert find_outage(wrong.value) is None
    assert find_outage(psycopg.ProgrammingError("cannot adapt type")) is None
    assert find_outage(ValueError("none of a database")) is None


def test_values_that_the_tables_reject_are_no_outage(database: Database) -> None:
    create_account(database, "acme")
    statement = "INSERT INTO accounts (name, currency, created_at) VALUES ('other', NULL, 1)"
    with pytest.raises(IntegrityError), database.write() as connection:
        connection.exec_driver_sql(statement)


def test_an_outage_is_logged_once_when_it_begins_and_once_when_it_ends() -> None:
    clock = ManualClock()
    outage = OutageLog(lambda: clock.second)
    with capture_logs() as logs:
        for _ in range(3):
            outage.fail("it is read-only")
            outage.succeed()  # Reads succeed meanwhile.
            clock.advance(1)
        clock.advance(int(QUIET_SECONDS))
        outage.succeed()
        outage.succeed()
        assert not outage.is_active
    assert [log["event"] for log in logs] == ["database_unavailable", "database_available"]
    assert logs[0]["reason"] == "it is read-only"
    assert logs[1]["outage_seconds"] == 2
