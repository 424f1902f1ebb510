"""Responses are stored once, found by their owner alone, and deleted when they are too old or too many."""

from pathlib import Path

import msgspec
import pytest

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.responses import ROW_BYTES, ResponseTable
from dragoman.core.responses import MAX_HISTORY_BYTES, HistoryTooLarge, ResponseNotFound, ResponseRecord
from tests.support.ledger_harness import ManualClock
from tests.support.sqlite_files import create_sqlite_database

DAY = 86_400_000


def record(number: int, previous: int | None = None) -> ResponseRecord:
    return ResponseRecord(
        id=f"resp_{number}",
        previous_id=None if previous is None else f"resp_{previous}",
        input=b"[%d]" % number,
        response=b"{}",
    )


def table_of(database: Database, *, days: float = 30, max_bytes: int = 2**30) -> ResponseTable:
    return ResponseTable(database, retention_days=days, max_bytes=max_bytes)


def test_a_response_points_to_the_one_before_it(database: Database) -> None:
    table = table_of(database)
    for number, previous in ((1, None), (2, 1), (3, 2), (4, 2)):
        table.store(record(number, previous), "ada")
    assert [found.id for found in table.history("resp_3", "ada").records] == ["resp_3", "resp_2", "resp_1"]
    assert [found.id for found in table.history("resp_4", "ada").records] == ["resp_4", "resp_2", "resp_1"]
    assert table.find("resp_2", "ada") == record(2, 1)
    assert table.find("resp_2", "bob") is None


def test_a_response_that_is_stored_stays_as_it_is(database: Database) -> None:
    table = table_of(database)
    table.store(record(1), "ada")
    table.store(record(1, 7), "ada")
    assert table.find("resp_1", "ada") == record(1)


def test_what_is_missing_is_named_and_what_is_deleted_is_not_found(database: Database) -> None:
    table = table_of(database)
    table.store(record(2, 1), "ada")
    assert table.history("resp_2", "ada").missing == "resp_1"
    assert not table.delete("resp_1", "ada")
    table.store(record(1), "ada")
    with pytest.raises(ResponseNotFound):
        table.history("resp_2", "ada")
    assert not table.delete("resp_2", "bob")
    assert table.delete("resp_2", "ada")
    with pytest.raises(ResponseNotFound):
        table.find("resp_2", "ada")


def test_a_conversation_that_is_larger_than_memory_has_room_for_is_not_read(database: Database) -> None:
    table = table_of(database)
    spaces = b"[" + b" " * (MAX_HISTORY_BYTES // 4) + b"]"
    for number in range(1, 6):
        table.store(msgspec.structs.replace(record(number, number - 1 or None), input=spaces), "ada")
    assert len(table.history("resp_3", "ada").records) == 3
    with pytest.raises(HistoryTooLarge):
        table.history("resp_5", "ada")


def test_old_responses_are_deleted(tmp_path: Path) -> None:
    clock = ManualClock()
    database = Database(create_sqlite_database(tmp_path / "accounts.db"), clock)
    table = table_of(database, days=2)
    table.store(record(1), "ada")
    clock.advance(DAY // 1000 + 1)
    table.store(record(2), "ada")
    clock.advance(DAY // 1000)
    assert (table.sweep(), table.sweep()) == (1, 0)
    assert (table.find("resp_1", "ada"), table.find("resp_2", "ada")) == (None, record(2))
    database.close()


def test_the_owner_with_the_most_loses_the_oldest(database: Database) -> None:
    table = table_of(database, max_bytes=4 * ROW_BYTES)
    for number in range(5):
        table.store(record(number), "ada")
    table.store(record(9), "bob")
    while table.sweep():
        pass
    assert table.find("resp_0", "ada") is None
    assert table.find("resp_4", "ada") == record(4)
    assert table.find("resp_9", "bob") == record(9)
