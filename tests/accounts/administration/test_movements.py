"""The movements of one request, found by their times."""

import random
from pathlib import Path

from dragoman.accounts.administration.movements import movements_of
from dragoman.accounts.administration.usage import list_usage
from dragoman.accounts.database.connections import Database
from tests.support.ledger_harness import LedgerHarness, ManualClock
from tests.support.sqlite_files import create_sqlite_database


def test_every_request_finds_its_own_movements_among_all(tmp_path: Path) -> None:
    clock, source = ManualClock(), random.Random(3)
    database = Database(create_sqlite_database(tmp_path / "accounts.db"), clock)
    with LedgerHarness(database) as harness:
        running: list[str] = []
        for _ in range(60):
            clock.advance(source.choice((0, 1, 1, 60)))
            if len(running) < 4 and (not running or source.random() < 0.6):
                running.append(harness.admit().request_id)
            else:
                harness.settle(running.pop(source.randrange(len(running))))
        rows = list_usage(database)
        assert len(rows) > 20
        for row in rows:
            hold, charge = movements_of(database, row)
            assert (hold.at, charge.at) == (row.admitted_at, row.settled_at)
            assert hold.balance + charge.balance == -charge.charges == -row.charge
            assert hold.holds == -charge.holds > 0
    database.close()


def test_movements_are_found_on_every_database(harness: LedgerHarness) -> None:
    request_id, _ = harness.run_requests(2)
    (row,) = (row for row in list_usage(harness.database) if row.request_id == request_id)
    assert [each.kind for each in movements_of(harness.database, row)] == ["hold", "charge"]


def test_a_request_without_an_account_has_none(harness: LedgerHarness) -> None:
    admission = harness.admission(key_digest=None)
    harness.ledger.commit([admission])
    harness.settle(admission.request_id, 1, 0, 1)
    (row,) = list_usage(harness.database)
    assert movements_of(harness.database, row) == []
