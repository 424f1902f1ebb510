"""Jobs from their submission to their end, with real engines, on one server or several."""

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from dragoman.core.context import account_owner
from dragoman.core.errors import JobCancelled, JobNotFound
from dragoman.core.events import Usage
from tests.support.database_faults import locked_file
from tests.support.echo_engines import BreakingEcho, FailurePoint
from tests.support.jobs.queue_harness import ACCEPT_ONLY, QueueHarness, draft, queue_server, text_of, wait_until
from tests.support.metered import cost
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


async def test_a_job_is_run_and_read_and_paid_for_once(harness: QueueHarness, journals: Path) -> None:
    async with queue_server(harness, journals) as server:
        job = await server.submit("Hello, world")
        assert job.state == "queued"
        events = await server.read(job.id)
        assert text_of(events) == "Hello, world"
        assert events[-1] == Usage(12, 13, 0)
        again = await server.read(job.id)
        assert again == events
        ended = await server.job(job.id)
        assert (ended.state, ended.stored_request, ended.position, ended.eta) == (
            "finished",
            job.stored_request,
            None,
            0,
        )
    assert [(used.result, used.charge) for used in harness.usage] == [("finished", cost(12, 13))]
    harness.assert_settled()


async def test_to_cancel_a_job_that_has_ended_waits_for_no_writer(harness: QueueHarness, journals: Path) -> None:
    if not harness.database.is_sqlite:
        pytest.skip("PostgreSQL's writers do not wait for each other")
    async with queue_server(harness, journals) as server:
        job = await server.submit("Hello, world")
        await server.read(job.id)
        with locked_file(harness.url):
            assert (await server.queue.cancel(job.id, account_owner(harness.account_id))).state == "finished"


async def test_jobs_go_on_while_the_event_loops_own_threads_wait_for_other_servers(
    harness: QueueHarness, journals: Path
) -> None:
    answered = threading.Event()
    large = draft("Hello")
    body = random.Random(0).randbytes(100_000).hex().encode()
    large = msgspec.structs.replace(large, stored_request=msgspec.structs.replace(large.stored_request, body=body))
    async with queue_server(harness, journals) as server:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        waiting = asyncio.create_task(asyncio.to_thread(answered.wait, TEST_TIMEOUT_SECONDS))
        try:
            async with asyncio.timeout(TEST_TIMEOUT_SECONDS / 4):
                job = await server.gateway.submit(large, harness.caller())
                assert (await server.job(job.id)).stored_request.body == body
                assert text_of(await server.read(job.id)) == "Hello"
        finally:
            answered.set()
            await waiting


async def test_a_job_is_hidden_from_other_accounts(harness: QueueHarness, journals: Path) -> None:
    _, other_key = harness.new_account("globex")
    async with queue_server(harness, journals) as server:
        job = await server.submit("Hello")
        for method in (server.job, server.cancel, server.read):
            with pytest.raises(JobNotFound):
                await method(job.id, key=other_key)
        assert text_of(await server.read(job.id)) == "Hello"


async def test_a_server_runs_jobs_that_another_accepted(harness: QueueHarness, journals: Path) -> None:
    async with queue_server(harness, journals, options=ACCEPT_ONLY) as front, queue_server(harness, journals):
        jobs = [await front.submit(f"text {number}") for number in range(5)]
        texts = [text_of(events) for events in await asyncio.gather(*(front.read(job.id) for job in jobs))]
        assert texts == [f"text {number}" for number in range(5)]
    harness.assert_settled()


async def test_a_server_that_leaves_its_jobs_to_another_serves_their_readers_to_the_end(
    harness: QueueHarness, journals: Path
) -> None:
    async with queue_server(harness, journals, engine=BreakingEcho(FailurePoint(5))) as old:
        running = await old.submit("running")
        async with old.open_stream(running.id) as events:
            received = [await anext(events)]
            await wait_until(lambda: harness.job_row(running.id).completion_tokens == 5)
            old.queue.retire()
            late = await old.submit("late", client_waits=True)
            reading = asyncio.create_task(old.read(late.id))
            async with queue_server(harness, journals, engine=BreakingEcho()):
                received += [event async for event in events]
                assert (text_of(received), text_of(await reading)) == ("running", "late")
    harness.assert_settled()


async def test_a_waiting_job_that_is_cancelled_costs_nothing(harness: QueueHarness, journals: Path) -> None:
    async with queue_server(harness, journals, options=ACCEPT_ONLY) as server:
        job = await server.submit("Hello")
        assert harness.account.holds > 0
        assert (await server.cancel(job.id)).state == "cancelled"
        with pytest.raises(JobCancelled):
            await server.read(job.id)
    assert [used.charge for used in harness.usage] == [0]
    harness.assert_settled()
