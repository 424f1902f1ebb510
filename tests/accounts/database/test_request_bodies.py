"""Bodies are kept for admitted requests, for a time, and within a size."""

from pathlib import Path

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.request_bodies import RequestBodyTable, delete_body, find_body, has_body
from dragoman.core.bodies import BodyRules, KeptBody
from tests.support.ledger_harness import LedgerHarness, ManualClock
from tests.support.sqlite_files import create_sqlite_database

DAY = 86_400


def body(request_id: str, answer: bytes = b"{}") -> KeptBody:
    return KeptBody(request_id=request_id, request=b"[1]", answer=answer, is_cut=False)


def test_bodies_of_admitted_requests_are_kept_until_they_are_deleted(harness: LedgerHarness) -> None:
    table = RequestBodyTable(harness.database, BodyRules(7, 2**20))
    running, (settled,) = harness.admit().request_id, harness.run_requests(1)
    table.keep([body(running), body(settled), body("refused")])
    assert (find_body(harness.database, running), find_body(harness.database, settled)) == (
        body(running),
        body(settled),
    )
    assert not has_body(harness.database, "refused")
    assert (delete_body(harness.database, running), delete_body(harness.database, running)) == (True, False)


def test_bodies_of_excepted_accounts_are_not_kept(harness: LedgerHarness) -> None:
    (request_id,) = harness.run_requests(1)
    RequestBodyTable(harness.database, BodyRules(7, 2**20, ("acme",))).keep([body(request_id)])
    assert not has_body(harness.database, request_id)


def test_old_bodies_go_and_the_oldest_above_the_limit(tmp_path: Path) -> None:
    clock = ManualClock()
    database = Database(create_sqlite_database(tmp_path / "accounts.db"), clock)
    with LedgerHarness(database) as harness:
        old, middle, new = harness.run_requests(3)
        generous = RequestBodyTable(database, BodyRules(7, 2**20))
        for request_id in (old, middle, new):
            generous.keep([body(request_id, bytes(range(256)) * 4)])
            clock.advance(3 * DAY)
        assert (generous.sweep(), generous.sweep()) == (1, 0)
        assert [has_body(database, each) for each in (old, middle, new)] == [False, True, True]
        narrow = RequestBodyTable(database, BodyRules(7, 700))
        assert (narrow.sweep(), has_body(database, middle), has_body(database, new)) == (1, False, True)
        assert (RequestBodyTable(database, BodyRules()).sweep(), has_body(database, new)) == (1, False)
    database.close()
