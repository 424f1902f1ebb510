"""An accepted job is stored with its hold and its Idempotency-Key; a rejected one leaves no rows."""

import asyncio
import contextlib
import random
import string
import threading
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import func, insert, select

from dragoman.accounts.administration.keys import KeyRules
from dragoman.accounts.database.idempotency_keys import IdempotencyKeyTable
from dragoman.accounts.database.tables import holds, idempotent_requests, job_requests, jobs, processes
from dragoman.accounts.database.thread import DatabaseThread
from dragoman.accounts.identifiers import new_process_id
from dragoman.core.errors import (
    IdempotencyConflict,
    InsufficientBalance,
    LedgerUnavailable,
    Limited,
    ModelNotFound,
    Overloaded,
    Unauthenticated,
)
from dragoman.core.idempotency import Acquired, IdempotentRequest, RequestMismatch, StoredResponse
from dragoman.core.jobs import SubmissionUnconfirmed
from dragoman.core.request import TextPrompt
from dragoman.gateway.admission.controller import AdmissionRequest
from dragoman.gateway.admission.ledger import LedgerAdmission
from dragoman.gateway.auth.account_keys import AccountKeyAuthenticator
from dragoman.gateway.ledger_connection import AccountsOptions, LedgerConnection
from dragoman.jobs.service.submission_batcher import SubmissionBatcher
from dragoman.jobs.storage.reader import JobReader
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.values.rows import Submission
from tests.support.jobs.queue_harness import ACCEPT_ONLY, QueueHarness, draft, queue_server, text_of, wait_until
from tests.support.metered import MODEL, cost
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

REQUEST = IdempotentRequest("caller", "key", "fingerprint")


def count_rows(harness: QueueHarness) -> list[int]:
    """Return how many jobs, stored requests, holds and Idempotency-Keys there are."""
    with harness.database.read() as connection:
        tables = (jobs, job_requests, holds, idempotent_requests)
        return [connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]


async def test_accepted_jobs_survive_their_server(harness: QueueHarness, journals: Path) -> None:
    async with queue_server(harness, journals, options=ACCEPT_ONLY) as server:
        job = await server.submit("Hello")
        assert (job.state, job.priority, job.already_existed) == ("queued", 128, False)
        assert harness.account.holds == cost(5, 8192 - 5)
        assert [key.running for key in harness.keys] == [0]
    async with queue_server(harness, journals) as other:
        assert text_of(await other.read(job.id)) == "Hello"
    harness.assert_settled()


async def test_rejected_submissions_leave_no_count_rows(harness: QueueHarness, journals: Path) -> None:
    _, poor_key = harness.new_account("poor", balance=cost(5, 1))
    _, other_key = harness.new_account("other", KeyRules(models=("another",)))
    async with queue_server(harness, journals) as server:
        with pytest.raises(InsufficientBalance):
            await server.submit("Hello", key=poor_key, idempotent_request=REQUEST)
        with pytest.raises(ModelNotFound):
            await server.submit("Hello", key=other_key, idempotent_request=REQUEST)
        with pytest.raises(Unauthenticated):
            await server.submit("Hello", key="sk-unknown", idempotent_request=REQUEST)
    assert count_rows(harness) == [0, 0, 0, 0]


async def test_a_full_queue_rejects_submissions(harness: QueueHarness, journals: Path) -> None:
    options = QueueOptions(concurrency=0, max_queued_jobs=2)
    async with queue_server(harness, journals, options=options) as server:
        first, _ = [await server.submit("Hello") for _ in range(2)]
        with pytest.raises(Overloaded, match="full"):
            await server.submit("Hello")
        assert count_rows(harness) == [2, 2, 2, 0]
        await server.cancel(first.id)
        await asyncio.sleep(0.11)  # A full queue is not counted again before this.
        await server.submit("Hello")


@pytest.mark.parametrize(
    "options",
    [
        QueueOptions(concurrency=0, max_queued_jobs_per_owner=2),
        QueueOptions(concurrency=0, max_queued_bytes_per_owner=3_500),
    ],
)
async def test_an_owner_with_its_share_of_the_queue_leaves_the_rest_to_others(
    harness: QueueHarness, journals: Path, options: QueueOptions
) -> None:
    _, other = harness.new_account("other")
    text = string.ascii_letters + random.Random(0).randbytes(500).hex()
    async with queue_server(harness, journals, options=options) as server:
        first, _ = [await server.submit(text) for _ in range(2)]
        with pytest.raises(Limited, match=r"You have 2 requests of \d+ bytes waiting") as caught:
            await server.submit(text)
        assert caught.value.retry_after > 0
        for _ in range(2):
            await server.submit(text, key=other)
        assert count_rows(harness) == [4, 4, 4, 0]
        await server.cancel(first.id)
        await asyncio.sleep(0.11)  # A full share is not counted again before this.
        await server.submit(text)


async def test_the_queue_is_full_of_bytes_too(harness: QueueHarness, journals: Path) -> None:
    options = QueueOptions(concurrency=0, max_queued_bytes=4_000)
    async with queue_server(harness, journals, options=options) as server:
        await server.submit(random.Random(0).randbytes(1000).hex())
        with pytest.raises(Overloaded, match="full"):
            await server.submit(random.Random(1).randbytes(1000).hex())


async def test_what_is_stored_counts_also_where_it_is_larger_than_the_body(
    harness: QueueHarness, journals: Path
) -> None:
    """As with images of other servers, which are stored with the request."""
    named = draft("an image's address")
    options = QueueOptions(concurrency=0, max_queued_bytes_per_owner=2_500)
    async with queue_server(harness, journals, options=options) as server:
        for number in range(2):
            request = msgspec.structs.replace(
                named.requests[0], prompt=TextPrompt(random.Random(number).randbytes(1000).hex())
            )
            fetched = msgspec.structs.replace(draft("an image's address"), requests=(request,))
            with pytest.raises(Limited) if number else contextlib.nullcontext():
                await server.gateway.submit(fetched, harness.caller())


async def test_the_same_request_with_the_same_key_is_the_same_job(harness: QueueHarness, journals: Path) -> None:
    async with queue_server(harness, journals) as server, queue_server(harness, journals) as other:
        jobs = await asyncio.gather(
            *(each.submit("Hello", idempotent_request=REQUEST) for each in (server, other) for _ in range(5))
        )
        assert len({job.id for job in jobs}) == 1
        assert sum(not job.already_existed for job in jobs) == 1
        assert text_of(await server.read(jobs[0].id)) == "Hello"
        later = await other.submit("Hello", idempotent_request=REQUEST)
        assert (later.id, later.state, later.already_existed) == (jobs[0].id, "finished", True)
    assert len(harness.usage) == 1
    harness.assert_settled()


@pytest.mark.parametrize(
    "options",
    [
        QueueOptions(concurrency=0, max_queued_jobs=1),
        QueueOptions(concurrency=0, max_queued_jobs_per_owner=1),
    ],
)
async def test_an_accepted_request_is_found_again_in_a_full_queue(
    harness: QueueHarness, journals: Path, options: QueueOptions
) -> None:
    async with queue_server(harness, journals, options=options) as server:
        job = await server.submit("Hello", idempotent_request=REQUEST)
        again = await server.submit("Hello", idempotent_request=REQUEST)
        assert (again.id, again.already_existed) == (job.id, True)
        for other in (IdempotentRequest("caller", "key", "other"), IdempotentRequest("caller", "other", "fingerprint")):
            with pytest.raises((Overloaded, Limited)):
                await server.submit("Hello", idempotent_request=other)


async def test_an_idempotency_key_belongs_to_one_request(harness: QueueHarness, journals: Path) -> None:
    keys = IdempotencyKeyTable(harness.database, 1)
    with harness.database.write() as connection:
        connection.execute(insert(processes).values(id=1, machine="elsewhere", beat_at=2**60))
    direct = IdempotentRequest("caller", "another key", "fingerprint")
    assert keys.claim(direct, 11) == Acquired(11)
    async with queue_server(harness, journals, options=ACCEPT_ONLY) as server:
        await server.submit("Hello", idempotent_request=REQUEST)
        with pytest.raises(IdempotencyConflict):
            await server.submit("Bye", idempotent_request=IdempotentRequest("caller", "key", "another fingerprint"))
        with pytest.raises(IdempotencyConflict):
            await server.submit(
                "Hello", idempotent_request=IdempotentRequest("caller", "another key", "fingerprint of a queued one")
            )
        assert keys.claim(IdempotentRequest("caller", "key", "fingerprint of a direct one"), 12) == RequestMismatch()
        keys.release(direct, 11)
        job = await server.submit("Hello", idempotent_request=direct)
        assert not job.already_existed
    keys.store(REQUEST, 11, StoredResponse(200, (), b""))
    assert keys.sweep(()) == 0
    assert count_rows(harness)[0] == 2


async def test_the_most_urgent_job_is_run_first(harness: QueueHarness, journals: Path) -> None:
    options = QueueOptions(concurrency=1)
    async with queue_server(harness, journals, options=ACCEPT_ONLY) as front:
        submitted = [await front.submit("Hello", priority=priority) for priority in (200, 128, 128, 0)]
        positions = [(await front.job(job.id)).position for job in submitted]
    assert positions == [4, 2, 3, 1]
    async with queue_server(harness, journals, options=options) as server:
        await wait_until(lambda: count_rows(harness)[2] == 0 and not server.queue.running)
    ended = sorted(submitted, key=lambda job: int(harness.job_row(job.id).claimed_at))
    assert [job.priority for job in ended] == [0, 128, 128, 200]


async def test_etas_follow_the_durations_of_the_latest_jobs(harness: QueueHarness, journals: Path) -> None:
    async with queue_server(harness, journals) as server:
        done = await server.submit("Hello")
        assert done.eta == 0
        await server.read(done.id)
        harness.update_job(done.id, claimed_at=harness.job_row(done.id).ended_at - 10_000)
    async with queue_server(harness, journals, options=ACCEPT_ONLY) as front:
        waiting = [await front.submit("Hello") for _ in range(3)]
        assert [(await front.job(job.id)).eta for job in waiting] == [15, 25, 35]
        assert waiting[0].eta == 15


@pytest.mark.parametrize("idempotent_request", [None, REQUEST], ids=["without a key", "with a key"])
async def test_a_submission_that_may_be_stored_is_not_to_be_repeated_without_a_key(
    harness: QueueHarness, journals: Path, idempotent_request: IdempotentRequest | None
) -> None:
    connection = LedgerConnection(AccountsOptions(database=harness.database, journals=journals), new_process_id())
    admission = LedgerAdmission(connection, AccountKeyAuthenticator(connection)).prepare(
        AdmissionRequest(
            caller=harness.caller(),
            dialect="infermatic",
            model=MODEL,
            billed_model=MODEL,
            prompt_tokens=5,
            max_completion_tokens=20,
            is_buffered=True,
        )
    )
    submission = Submission(draft("Hello", idempotent_request=idempotent_request), admission, "owner")
    read_thread, write_thread = DatabaseThread(harness.database), DatabaseThread(harness.database, timeout_seconds=0.05)
    batcher = SubmissionBatcher(
        read_thread=read_thread,
        reader=JobReader(harness.database),
        write_thread=write_thread,
        store=JobStore(harness.database, QueueOptions(), new_process_id()),
        options=QueueOptions(),
        timeout_seconds=0,
    )
    database_answers = threading.Event()
    blocking = asyncio.create_task(write_thread.run(database_answers.wait, TEST_TIMEOUT_SECONDS))
    with pytest.raises(Overloaded) as caught:
        await batcher.accept(submission)
    database_answers.set()
    with pytest.raises(Overloaded):
        await blocking
    await batcher.close()
    read_thread.close()
    write_thread.close()
    expected = SubmissionUnconfirmed if idempotent_request is None else LedgerUnavailable
    assert type(caught.value) is expected
