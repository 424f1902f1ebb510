"""One account's rows that a transaction on PostgreSQL keeps locked, as an operator's `SELECT … FOR UPDATE` does."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dragoman.accounts.database.thread import DatabaseThread
from dragoman.accounts.ledger.operations import Admission
from dragoman.core.context import key_digest, new_request_id
from dragoman.core.errors import LedgerUnavailable
from dragoman.jobs.service.submission_batcher import SubmissionBatcher
from dragoman.jobs.storage.reader import JobReader
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.values.payloads import pack_submission
from dragoman.jobs.values.rows import AcceptedJob, Submission
from tests.support.echo_engines import GatedEcho
from tests.support.jobs.queue_harness import ACCEPT_ONLY, QueueHarness, draft, queue_server, text_of, wait_until
from tests.support.metered import MODEL
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

pytestmark = pytest.mark.parametrize("kind", ["postgresql"])
"""SQLite has one lock for all."""


@pytest.fixture
def operator(harness: QueueHarness) -> Iterator[psycopg.Connection[Any]]:
    """Somebody else's connection, with a transaction that stays open."""
    with psycopg.connect(harness.url) as connection:
        yield connection


def _submission(key: str) -> Submission:
    request_id = new_request_id()
    admission = Admission(
        request_id=request_id,
        key_digest=key_digest(key),
        model=MODEL,
        dialect="arcee",
        prompt_tokens=1,
        max_completion_tokens=1,
    )
    return Submission(draft("x", answer_id=request_id), admission, key)


def _lock(operator: psycopg.Connection[Any], harness: QueueHarness) -> None:
    operator.execute("SELECT FROM accounts WHERE id = %s FOR UPDATE", (harness.account_id,))


async def test_jobs_of_others_are_accepted_and_end_while_an_ended_one_waits_for_it(
    harness: QueueHarness, journals: Path, operator: psycopg.Connection[Any]
) -> None:
    _, other = harness.new_account("other")
    engine = GatedEcho(is_open=False)
    async with queue_server(harness, journals, engine=engine, options=QueueOptions(concurrency=1)) as server:
        waiting = await server.submit("Hello, world")
        await engine.generation_started.wait()
        _lock(operator, harness)
        engine.gate.set()
        for _ in range(3):
            job = await server.submit("Hi", key=other)
            assert text_of(await server.read(job.id, key=other)) == "Hi"
        assert harness.job_row(waiting.id).state == "running"
        operator.commit()
        assert text_of(await server.read(waiting.id)) == "Hello, world"
    assert [used.result for used in harness.usage] == ["finished"] * 4
    harness.assert_settled()


async def test_its_own_submission_waits_and_those_beside_it_do_not(
    harness: QueueHarness, operator: psycopg.Connection[Any]
) -> None:
    _, other = harness.new_account("other")
    options = QueueOptions()
    with contextlib.closing(JobStore(harness.database, options, 1)) as store:
        thread = DatabaseThread(harness.database)
        batcher = SubmissionBatcher(
            read_thread=thread,
            reader=JobReader(harness.database),
            write_thread=thread,
            store=store,
            options=options,
            timeout_seconds=TEST_TIMEOUT_SECONDS,
        )
        _lock(operator, harness)
        waiting = asyncio.create_task(batcher.accept(_submission(harness.key)))
        for _ in range(3):
            await asyncio.gather(*(batcher.accept(_submission(other)) for _ in range(2)))
        assert not waiting.done()
        operator.commit()
        await waiting
        await batcher.close()
        await thread.run(store.close)
        thread.close()
    assert harness.account.holds > 0


async def test_overdue_jobs_of_others_fail_and_its_own_do_later(
    harness: QueueHarness, journals: Path, operator: psycopg.Connection[Any]
) -> None:
    _, other = harness.new_account("other")
    async with queue_server(harness, journals, options=ACCEPT_ONLY) as server:
        own = await server.submit("Hello", client_waits=True)
        others = await server.submit("Hello", client_waits=True, key=other)
        _lock(operator, harness)
        for job in (own, others):
            harness.update_job(job.id, expires_at=1)
        await wait_until(lambda: harness.job_row(others.id).state == "failed")
        assert harness.job_row(own.id).state == "queued"
        operator.commit()
        await wait_until(lambda: harness.job_row(own.id).state == "failed")
    harness.assert_settled()


async def test_who_cancels_a_job_of_it_or_runs_one_again_gets_an_error(
    harness: QueueHarness, operator: psycopg.Connection[Any]
) -> None:
    with contextlib.closing(JobStore(harness.database, QueueOptions(), 1)) as store:
        [accepted] = store.accept([pack_submission(_submission(harness.key))])
        assert isinstance(accepted, AcceptedJob)
        number = harness.job_row(accepted.job_id).number
        _lock(operator, harness)
        with pytest.raises(LedgerUnavailable, match="locked"):
            store.cancel(number)
        operator.commit()
        assert store.cancel(number)
        _lock(operator, harness)
        with pytest.raises(LedgerUnavailable, match="locked"):
            store.retry(accepted.job_id, hold_cap=None)
    harness.assert_settled()
