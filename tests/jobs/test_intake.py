"""What is accepted is stored with its hold and its Idempotency-Key; what is not leaves nothing behind."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select

from dragoman.accounts.idempotency import IdempotencyStore
from dragoman.accounts.keys import KeyRules
from dragoman.accounts.tables import holds, idempotent_requests, job_requests, jobs, processes
from dragoman.core.errors import IdempotencyConflict, ModelNotFound, OutOfBalance, Overloaded, Unauthenticated
from dragoman.core.idempotency import Attempt, Claimed, Different, KeptAnswer
from dragoman.jobs.options import QueueOptions
from tests.support.metered import cost
from tests.support.queues import Shop, said, server, until

TAKES_IN = QueueOptions(concurrency=0)
ATTEMPT = Attempt("caller", "key", "fingerprint")


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    return tmp_path / "journals"


def rows(shop: Shop) -> list[int]:
    """Of jobs, their requests, holds and Idempotency-Keys."""
    with shop.database.read() as connection:
        tables = (jobs, job_requests, holds, idempotent_requests)
        return [connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]


async def test_what_is_accepted_outlives_its_server(shop: Shop, journals: Path) -> None:
    async with server(shop, journals, options=TAKES_IN) as one:
        job = await one.submit("Hello")
        assert (job.state, job.priority, job.repeated) == ("queued", 128, False)
        assert shop.account.holds == cost(5, 8192 - 5)
        assert [key.running for key in shop.keys] == [0]
    async with server(shop, journals) as other:
        assert said(await other.read(job.id)) == "Hello"
    shop.assert_settled()


async def test_what_is_refused_leaves_nothing_behind(shop: Shop, journals: Path) -> None:
    _, poor = shop.new_account("poor", balance=cost(5, 1))
    _, other = shop.new_account("other", KeyRules(models=("another",)))
    async with server(shop, journals) as one:
        with pytest.raises(OutOfBalance):
            await one.submit("Hello", key=poor, attempt=ATTEMPT)
        with pytest.raises(ModelNotFound):
            await one.submit("Hello", key=other, attempt=ATTEMPT)
        with pytest.raises(Unauthenticated):
            await one.submit("Hello", key="sk-nobodys", attempt=ATTEMPT)
    assert rows(shop) == [0, 0, 0, 0]


async def test_a_full_queue_takes_no_more(shop: Shop, journals: Path) -> None:
    options = QueueOptions(concurrency=0, max_waiting=2)
    async with server(shop, journals, options=options) as one:
        first, _ = [await one.submit("Hello") for _ in range(2)]
        with pytest.raises(Overloaded, match="full"):
            await one.submit("Hello")
        assert rows(shop) == [2, 2, 2, 0]
        await one.cancel(first.id)
        await asyncio.sleep(0.11)  # So long a full queue is not counted again.
        await one.submit("Hello")


async def test_the_same_request_with_the_same_key_is_the_same_job(shop: Shop, journals: Path) -> None:
    async with server(shop, journals) as one, server(shop, journals) as other:
        jobs = await asyncio.gather(*(each.submit("Hello", attempt=ATTEMPT) for each in (one, other) for _ in range(5)))
        assert len({job.id for job in jobs}) == 1
        assert sum(not job.repeated for job in jobs) == 1
        assert said(await one.read(jobs[0].id)) == "Hello"
        later = await other.submit("Hello", attempt=ATTEMPT)
        assert (later.id, later.state, later.repeated) == (jobs[0].id, "finished", True)
    assert len(shop.usage) == 1
    shop.assert_settled()


async def test_a_key_stands_for_one_request(shop: Shop, journals: Path) -> None:
    keys = IdempotencyStore(shop.database, 1)
    with shop.database.write() as connection:
        connection.execute(insert(processes).values(id=1, machine="elsewhere", beat_at=2**60))
    direct = Attempt("caller", "another key", "fingerprint")
    assert keys.claim(direct, 11) == Claimed(11)
    async with server(shop, journals, options=TAKES_IN) as one:
        await one.submit("Hello", attempt=ATTEMPT)
        with pytest.raises(IdempotencyConflict):
            await one.submit("Bye", attempt=Attempt("caller", "key", "another fingerprint"))
        with pytest.raises(IdempotencyConflict):
            await one.submit("Hello", attempt=Attempt("caller", "another key", "fingerprint of a queued one"))
        assert keys.claim(Attempt("caller", "key", "fingerprint of a direct one"), 12) == Different()
        keys.release(direct, 11)
        job = await one.submit("Hello", attempt=direct)
        assert not job.repeated
    keys.keep(ATTEMPT, 11, KeptAnswer(200, (), b""))
    assert keys.sweep(()) == 0
    assert rows(shop)[0] == 2


async def test_the_most_urgent_job_is_run_first(shop: Shop, journals: Path) -> None:
    options = QueueOptions(concurrency=1)
    async with server(shop, journals, options=TAKES_IN) as front:
        submitted = [await front.submit("Hello", priority=priority) for priority in (200, 128, 128, 0)]
        places = [(await front.job(job.id)).position for job in submitted]
    assert places == [4, 2, 3, 1]
    async with server(shop, journals, options=options) as one:
        await until(lambda: rows(shop)[2] == 0 and not one.queue.running)
    ended = sorted(submitted, key=lambda job: int(shop.row(job.id).claimed_at))
    assert [job.priority for job in ended] == [0, 128, 128, 200]


async def test_times_are_told_by_how_long_the_last_ones_took(shop: Shop, journals: Path) -> None:
    async with server(shop, journals) as one:
        done = await one.submit("Hello")
        assert done.eta == 0
        await one.read(done.id)
        shop.change(done.id, claimed_at=shop.row(done.id).ended_at - 10_000)
    async with server(shop, journals, options=TAKES_IN) as front:
        waiting = [await front.submit("Hello") for _ in range(3)]
        assert [(await front.job(job.id)).eta for job in waiting] == [15, 25, 35]
        assert waiting[0].eta == 15
