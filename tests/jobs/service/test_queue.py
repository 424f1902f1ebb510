"""Jobs from their submission to their end, with real engines, on one server or several."""

import asyncio
from pathlib import Path

import pytest

from dragoman.core.errors import JobCancelled, JobNotFound
from dragoman.core.events import Usage
from dragoman.jobs.values.options import QueueOptions
from tests.support.metered import cost
from tests.support.queues import QueueHarness, queue_server, text_of

ACCEPT_ONLY = QueueOptions(concurrency=0)


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    return tmp_path / "journals"


async def test_a_job_is_run_and_read_and_paid_for_once(harness: QueueHarness, journals: Path) -> None:
    async with queue_server(harness, journals) as one:
        job = await one.submit("Hello, world")
        assert job.state == "queued"
        events = await one.read(job.id)
        assert text_of(events) == "Hello, world"
        assert events[-1] == Usage(12, 13, 0)
        again = await one.read(job.id)
        assert again == events
        ended = await one.job(job.id)
        assert (ended.state, ended.stored_request, ended.position, ended.eta) == (
            "finished",
            job.stored_request,
            None,
            0,
        )
    assert [(used.result, used.charge) for used in harness.usage] == [("finished", cost(12, 13))]
    harness.assert_settled()


async def test_a_job_is_hidden_from_other_accounts(harness: QueueHarness, journals: Path) -> None:
    _, stranger = harness.new_account("globex")
    async with queue_server(harness, journals) as one:
        job = await one.submit("Hello")
        for ask in (one.job, one.cancel, one.read):
            with pytest.raises(JobNotFound):
                await ask(job.id, key=stranger)
        assert text_of(await one.read(job.id)) == "Hello"


async def test_a_server_runs_jobs_that_another_accepted(harness: QueueHarness, journals: Path) -> None:
    async with queue_server(harness, journals, options=ACCEPT_ONLY) as front, queue_server(harness, journals):
        jobs = [await front.submit(f"text {number}") for number in range(5)]
        texts = [text_of(events) for events in await asyncio.gather(*(front.read(job.id) for job in jobs))]
        assert texts == [f"text {number}" for number in range(5)]
    harness.assert_settled()


async def test_a_waiting_job_that_is_cancelled_costs_nothing(harness: QueueHarness, journals: Path) -> None:
    async with queue_server(harness, journals, options=ACCEPT_ONLY) as one:
        job = await one.submit("Hello")
        assert harness.account.holds > 0
        assert (await one.cancel(job.id)).state == "cancelled"
        with pytest.raises(JobCancelled):
            await one.read(job.id)
    assert [used.charge for used in harness.usage] == [0]
    harness.assert_settled()
