"""Reading an answer: before it is there, while it comes and afterwards; here and elsewhere; by one and by many."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dragoman.core.errors import JobNotFound
from dragoman.core.events import Event
from dragoman.engines.echo import EchoEngine
from dragoman.jobs.attempts import MOST_PENDING
from dragoman.jobs.options import QueueOptions
from dragoman.jobs.retention import Retention
from tests.support.breaking_echo import Break, BreakingEcho
from tests.support.queues import Shop, said, server, until

TAKES_IN = QueueOptions(concurrency=0)
LONG = "0123456789" * (MOST_PENDING // 3)


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    return tmp_path / "journals"


async def some(events: AsyncIterator[Event], count: int) -> list[Event]:
    return [await anext(events) for _ in range(count)]


async def test_all_readers_are_told_the_same_wherever_and_whenever_they_come(shop: Shop, journals: Path) -> None:
    engine = EchoEngine(tokens_per_second=400)
    async with server(shop, journals, options=TAKES_IN) as front, server(shop, journals, engine=engine) as back:
        job = await front.submit("x" * 100)
        early = [asyncio.create_task(each.read(job.id)) for each in (front, front, back)]
        async with front.following(job.id) as events:
            first = await some(events, 10)
            late = [asyncio.create_task(each.read(job.id)) for each in (front, back)]
            rest = [event async for event in events]
        told = [first + rest, *await asyncio.gather(*early, *late), await front.read(job.id)]
    assert all(each == told[0] for each in told)
    assert said(told[0]) == "x" * 100
    shop.assert_settled()


async def test_an_answer_longer_than_all_that_is_kept_in_memory_is_told_whole(shop: Shop, journals: Path) -> None:
    async with server(shop, journals) as one:
        job = await one.submit(LONG)
        assert said(await one.read(job.id)) == LONG
        assert said(await one.read(job.id)) == LONG
    assert shop.stored_events(job.id) > 1


async def test_what_is_told_is_stored_and_survives_its_server(shop: Shop, journals: Path) -> None:
    async with server(shop, journals, engine=BreakingEcho(Break(30))) as one:
        job = await one.submit("x" * 60)
        async with one.following(job.id) as events:
            told = await some(events, 30)
        assert shop.row(job.id).completion_tokens >= 30
    async with server(shop, journals, engine=BreakingEcho()) as other:
        again = await other.read(job.id)
    assert again[:30] == told
    assert said(again) == "x" * 60


async def test_a_reader_that_leaves_stops_nothing(shop: Shop, journals: Path) -> None:
    async with server(shop, journals) as one:
        job = await one.submit("x" * 60)
        async with one.following(job.id) as events:
            await anext(events)
        await until(lambda: shop.row(job.id).state == "finished")
        assert said(await one.read(job.id)) == "x" * 60


async def test_a_result_that_is_removed_is_not_found(shop: Shop, journals: Path) -> None:
    async with server(shop, journals) as one:
        job = await one.submit("Hello")
        await one.read(job.id)
        following = await one.gateway.follow_job(job.id, shop.caller())
        assert Retention(shop.database, QueueOptions(result_bytes=0)).sweep() == 1
        with pytest.raises(JobNotFound):
            await anext(aiter(following))
        await following.aclose()
        with pytest.raises(JobNotFound):
            await one.job(job.id)
