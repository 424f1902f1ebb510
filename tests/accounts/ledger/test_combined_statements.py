"""What PostgreSQL locks in a transaction, and in which order."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from dragoman.accounts.administration.accounts import create_account
from dragoman.accounts.administration.keys import change_key
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.statements import Statement
from dragoman.accounts.ledger.combined_statements import LOCK
from dragoman.accounts.ledger.operations import Admitted
from dragoman.core.errors import AccountNotAllowed
from tests.support.ledger_harness import LedgerHarness

WAITING = Statement("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'", ())


@pytest.mark.parametrize("is_reversed", [False, True])
def test_holds_are_locked_first_and_accounts_last_in_whichever_order_the_results_are_computed(
    harness: LedgerHarness, database: Database, is_reversed: bool
) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has one lock for all")
    admitted = harness.admit()
    head, _, results = LOCK.rpartition("\nSELECT ")
    parts = re.findall(r"\(SELECT json_agg.*?\)::text", results, re.DOTALL)
    assert len(parts) == 3
    ordered = Statement(f"{head}\nSELECT {', '.join(reversed(parts) if is_reversed else parts)}", ())
    blocking, locking, looking = (database.session() for _ in range(3))
    for session in (blocking, locking, looking):
        session.begin()
    blocking.rows(Statement("SELECT id FROM keys FOR UPDATE", ()))
    with ThreadPoolExecutor() as executor:
        locked = executor.submit(locking.rows, ordered, [admitted.request_id], [harness.digest], [])
        try:
            while not looking.rows(WAITING)[0][0]:
                assert not locked.done()
            assert looking.rows(Statement("SELECT request_id FROM holds FOR UPDATE SKIP LOCKED", ())) == []
            free = Statement("SELECT id FROM accounts FOR UPDATE SKIP LOCKED", ())
            assert looking.rows(free) == [(harness.account_id,)]
            looking.commit()
        finally:
            blocking.commit()
        assert all(locked.result()[0])
    for session in (blocking, locking, looking):
        session.close()


def test_an_account_that_a_key_is_given_while_its_request_waits_is_not_usable_yet(
    harness: LedgerHarness, database: Database
) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has one lock for all")
    other = create_account(database, "other")
    selecting = harness.admission(max_completion=0, prompt=0, account="other")
    looking = database.session()
    with ThreadPoolExecutor() as executor:
        with database.write():
            change_key(database, harness.key_id, label="two accounts", other_accounts=[other.id])
            committed = executor.submit(harness.ledger.commit, [selecting, harness.admission()])
            while not looking.rows(WAITING)[0][0]:
                assert not committed.done()
        refused, admitted = committed.result()
    assert isinstance(refused, AccountNotAllowed)
    assert isinstance(admitted, Admitted)
    [again] = harness.ledger.commit([selecting])
    assert isinstance(again, Admitted)
    looking.close()
