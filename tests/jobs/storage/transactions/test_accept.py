"""Submissions that are repeated, since it was never confirmed that they are stored."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from dragoman.accounts.database.sessions import Instant, Session
from dragoman.accounts.database.statements import Statement
from dragoman.accounts.identifiers import QUEUE_PROCESS_ID
from dragoman.accounts.ledger.ledger import Ledger
from dragoman.accounts.ledger.operations import Admission, LedgerOutcome
from dragoman.core.context import key_digest, new_request_id
from dragoman.jobs.storage.statements import job_statements
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.storage.transactions.accept import AcceptResult, AcceptTransaction
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.values.payloads import pack_submission
from dragoman.jobs.values.rows import AcceptedJob, Submission
from tests.support.jobs.queue_harness import QueueHarness, draft
from tests.support.metered import MODEL

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


def test_a_submission_is_found_that_is_still_being_committed_when_it_is_repeated(harness: QueueHarness) -> None:
    """The client's connection was lost, and PostgreSQL goes on."""
    database = harness.database
    if database.is_sqlite:
        pytest.skip("SQLite's transactions end with their connections")
    request_id, options = new_request_id(), QueueOptions()
    admission = Admission(
        request_id=request_id,
        key_digest=key_digest(harness.key),
        model=MODEL,
        dialect="arcee",
        prompt_tokens=1,
        max_completion_tokens=1,
    )
    submission = pack_submission(Submission(draft("Hello", answer_id=request_id), admission, "owner"))
    first = _SlowTransaction(job_statements(database.dialect), [submission], options)
    first.is_written, first.finish = threading.Event(), threading.Event()
    ledger, store = Ledger(database, QUEUE_PROCESS_ID), JobStore(database, options, QUEUE_PROCESS_ID)
    looking = database.session()
    with ThreadPoolExecutor() as executor:
        committed = executor.submit(ledger.run_script, first)
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
