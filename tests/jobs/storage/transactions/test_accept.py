"""Submissions that are repeated, since it was never confirmed that they are stored."""

import contextlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from dragoman.accounts.database.sessions import Instant, Session
from dragoman.accounts.database.statements import Statement
from dragoman.accounts.identifiers import QUEUE_PROCESS_ID
from dragoman.accounts.ledger.ledger import Ledger
from dragoman.accounts.ledger.operations import Admission, LedgerOutcome
from dragoman.core.context import key_digest, new_request_id
from dragoman.core.idempotency import IdempotentRequest
from dragoman.jobs.storage.statements import job_statements
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.storage.transactions.accept import AcceptResult, AcceptTransaction
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.values.payloads import pack_submission
from dragoman.jobs.values.rows import AcceptedJob, PackedSubmission, Submission
from tests.support.jobs.queue_harness import QueueHarness, draft
from tests.support.metered import MODEL
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

WAITING = Statement("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'", ())


class _SlowTransaction(AcceptTransaction):
    """One that is about to be committed until `finish` is set."""

    is_written: threading.Event
    finish: threading.Event

    def apply(self, session: Session, now: Instant, outcomes: Sequence[LedgerOutcome]) -> list[AcceptResult]:
        results = super().apply(session, now, outcomes)
        self.is_written.set()
        self.finish.wait()
        return results


def _submission(harness: QueueHarness, request: IdempotentRequest | None = None) -> PackedSubmission:
    request_id = new_request_id()
    admission = Admission(
        request_id=request_id,
        key_digest=key_digest(harness.key),
        model=MODEL,
        dialect="arcee",
        prompt_tokens=1,
        max_completion_tokens=1,
    )
    sent = draft("Hello", answer_id=request_id, idempotent_request=request)
    return pack_submission(Submission(sent, admission, "owner"))


def _slow(harness: QueueHarness, submission: PackedSubmission) -> _SlowTransaction:
    slow = _SlowTransaction(job_statements(harness.database.dialect), [submission], QueueOptions())
    slow.is_written, slow.finish = threading.Event(), threading.Event()
    return slow


def test_a_submission_is_found_that_is_still_being_committed_when_it_is_repeated(harness: QueueHarness) -> None:
    """The client's connection was lost, and PostgreSQL goes on."""
    database = harness.database
    if database.is_sqlite:
        pytest.skip("SQLite's transactions end with their connections")
    submission, options = _submission(harness), QueueOptions()
    first = _slow(harness, submission)
    ledger, store = Ledger(database, QUEUE_PROCESS_ID), JobStore(database, options, QUEUE_PROCESS_ID)
    looking = database.session()
    with ThreadPoolExecutor() as executor:
        committed = executor.submit(ledger.run_script, lambda: first)
        try:
            assert first.is_written.wait(60)
            repeated = executor.submit(store.accept, [submission])
            while not looking.rows(WAITING)[0][0]:
                assert not repeated.done()
        finally:
            first.finish.set()
        assert repeated.result() == committed.result() == [AcceptedJob(submission.submission.job_id, repeated=False)]
    for each in (looking, ledger, store):
        each.close()


def test_a_submission_is_found_whose_key_several_servers_and_one_of_them_twice_have_stored_at_once(
    harness: QueueHarness,
) -> None:
    database = harness.database
    if database.is_sqlite:
        pytest.skip("SQLite runs one transaction after the other")
    same = IdempotentRequest("caller", "key", "fingerprint")
    running, other = _slow(harness, _submission(harness)), _slow(harness, _submission(harness, same))
    with contextlib.ExitStack() as stack:
        looking = stack.enter_context(contextlib.closing(database.session()))
        ledgers = [stack.enter_context(contextlib.closing(Ledger(database, QUEUE_PROCESS_ID))) for _ in range(2)]
        store = stack.enter_context(contextlib.closing(JobStore(database, QueueOptions(), QUEUE_PROCESS_ID)))
        executor = stack.enter_context(ThreadPoolExecutor())
        for each in (running, other):
            stack.callback(each.finish.set)
        executor.submit(ledgers[0].run_script, lambda: running)
        assert running.is_written.wait(TEST_TIMEOUT_SECONDS)
        both = executor.submit(store.accept, [_submission(harness, same), _submission(harness, same)])
        _wait_for_lock(looking, 1)
        accepted = executor.submit(ledgers[1].run_script, lambda: other)
        _wait_for_lock(looking, 2)
        running.finish.set()  # Of the two of one server, the second one cannot be written: each is tried alone.
        assert other.is_written.wait(TEST_TIMEOUT_SECONDS)
        _wait_for_lock(looking, 1)
        other.finish.set()
        [stored] = accepted.result(TEST_TIMEOUT_SECONDS)
        assert isinstance(stored, AcceptedJob)
        assert both.result(TEST_TIMEOUT_SECONDS) == [AcceptedJob(stored.job_id, repeated=True)] * 2


def _wait_for_lock(looking: Session, count: int) -> None:
    """Wait until so many transactions wait for the locks of others."""
    ends_at = time.monotonic() + TEST_TIMEOUT_SECONDS
    while looking.rows(WAITING)[0][0] < count:
        assert time.monotonic() < ends_at
