"""Jobs from their submission to their end, with real engines, on one server or several."""

import asyncio
from pathlib import Path

import pytest

from dragoman.core.errors import JobCancelled, JobNotFound
from dragoman.core.events import Usage
from dragoman.jobs.options import QueueOptions
from tests.support.metered import cost
from tests.support.queues import Shop, said, server

TAKES_IN = QueueOptions(concurrency=0)


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    return tmp_path / "journals"


async def test_a_job_is_run_and_read_and_paid_for_once(shop: Shop, journals: Path) -> None:
    async with server(shop, journals) as one:
        job = await one.submit("Hello, world")
        assert job.state == "queued"
        events = await one.read(job.id)
        assert said(events) == "Hello, world"
        assert events[-1] == Usage(12, 13, 0)
        again = await one.read(job.id)
        assert again == events
        ended = await one.job(job.id)
        assert (ended.state, ended.form, ended.position, ended.eta) == ("finished", job.form, None, 0)
    assert [(used.result, used.charge) for used in shop.usage] == [("finished", cost(12, 13))]
    shop.assert_settled()


async def test_whoever_has_not_paid_for_a_job_does_not_know_it(shop: Shop, journals: Path) -> None:
    _, stranger = shop.new_account("globex")
    async with server(shop, journals) as one:
        job = await one.submit("Hello")
        for ask in (one.job, one.cancel, one.read):
            with pytest.raises(JobNotFound):
                await ask(job.id, key=stranger)
        assert said(await one.read(job.id)) == "Hello"


async def test_another_server_runs_what_one_took_in(shop: Shop, journals: Path) -> None:
    async with server(shop, journals, options=TAKES_IN) as front, server(shop, journals):
        jobs = [await front.submit(f"text {number}") for number in range(5)]
        texts = [said(events) for events in await asyncio.gather(*(front.read(job.id) for job in jobs))]
        assert texts == [f"text {number}" for number in range(5)]
    shop.assert_settled()


async def test_a_waiting_job_that_is_cancelled_costs_nothing(shop: Shop, journals: Path) -> None:
    async with server(shop, journals, options=TAKES_IN) as one:
        job = await one.submit("Hello")
        assert shop.account.holds > 0
        assert (await one.cancel(job.id)).state == "cancelled"
        with pytest.raises(JobCancelled):
            await one.read(job.id)
    assert [used.charge for used in shop.usage] == [0]
    shop.assert_settled()
