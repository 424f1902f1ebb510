"""Streams of events: before, during and after the answer, on any server, for one reader and for many."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dragoman.core.errors import JobNotFound
from dragoman.core.events import Event
from dragoman.engines.echo import EchoEngine
from dragoman.jobs.storage.retention import Retention
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.worker.attempts import MAX_PENDING_EVENTS
from tests.support.echo_engines import BreakingEcho, FailurePoint
from tests.support.jobs.queue_harness import ACCEPT_ONLY, QueueHarness, queue_server, text_of, wait_until

LONG = "0123456789" * (MAX_PENDING_EVENTS // 3)


async def take(events: AsyncIterator[Event], count: int) -> list[Event]:
    return [await anext(events) for _ in range(count)]


async def take_rest(events: AsyncIterator[Event], received: list[Event]) -> None:
    """Append the rest of the events, also if it ends with an error."""
    while (event := await anext(events, None)) is not None:
        received.append(event)


async def test_all_readers_receive_the_same_events_on_every_server_at_any_time(
    harness: QueueHarness, journals: Path
) -> None:
    engine = EchoEngine(tokens_per_second=400)
    async with (
        queue_server(harness, journals, options=ACCEPT_ONLY) as front,
        queue_server(harness, journals, engine=engine) as back,
    ):
        job = await front.submit("x" * 100)
        early = [asyncio.create_task(each.read(job.id)) for each in (front, front, back)]
        async with front.open_stream(job.id) as events:
            first = await take(events, 10)
            late = [asyncio.create_task(each.read(job.id)) for each in (front, back)]
            rest = [event async for event in events]
        received = [first + rest, *await asyncio.gather(*early, *late), await front.read(job.id)]
    assert all(each == received[0] for each in received)
    assert text_of(received[0]) == "x" * 100
    harness.assert_settled()


async def test_an_answer_longer_than_the_memory_buffer_is_streamed_whole(harness: QueueHarness, journals: Path) -> None:
    async with queue_server(harness, journals) as server:
        job = await server.submit(LONG)
        assert text_of(await server.read(job.id)) == LONG
        assert text_of(await server.read(job.id)) == LONG
    assert harness.count_event_rows(job.id) > 1


async def test_streamed_events_are_stored_and_survive_their_server(harness: QueueHarness, journals: Path) -> None:
    async with queue_server(harness, journals, engine=BreakingEcho(FailurePoint(30))) as server:
        job = await server.submit("x" * 60)
        async with server.open_stream(job.id) as events:
            received = await take(events, 30)
        assert harness.job_row(job.id).completion_tokens >= 30
    async with queue_server(harness, journals, engine=BreakingEcho()) as other:
        again = await other.read(job.id)
    assert again[:30] == received
    assert text_of(again) == "x" * 60


async def test_a_reader_that_disconnects_does_not_stop_the_job(harness: QueueHarness, journals: Path) -> None:
    async with queue_server(harness, journals) as server:
        job = await server.submit("x" * 60)
        async with server.open_stream(job.id) as events:
            await anext(events)
        await wait_until(lambda: harness.job_row(job.id).state == "finished")
        assert text_of(await server.read(job.id)) == "x" * 60


async def test_a_removed_result_is_not_found(harness: QueueHarness, journals: Path) -> None:
    async with queue_server(harness, journals) as server:
        job = await server.submit("Hello")
        await server.read(job.id)
        stream = await server.gateway.follow_job(job.id, harness.caller())
        assert Retention(harness.database, QueueOptions(max_result_bytes=0)).sweep() == 1
        with pytest.raises(JobNotFound):
            await anext(aiter(stream))
        await stream.aclose()
        with pytest.raises(JobNotFound):
            await server.job(job.id)


async def test_a_reader_of_a_removed_result_gets_nothing_of_a_later_job(harness: QueueHarness, journals: Path) -> None:
    _, other = harness.new_account("other")
    engine = BreakingEcho(FailurePoint(1000), FailurePoint(150))
    async with queue_server(harness, journals, engine=engine) as server:
        job = await server.submit("x" * 60)
        await server.read(job.id)
        async with server.open_stream(job.id) as events:
            received = await take(events, 1)
            assert Retention(harness.database, QueueOptions(max_result_bytes=0)).sweep() == 1
            secret = await server.submit("s" * 200, key=other)
            await wait_until(lambda: harness.job_row(secret.id).completion_tokens == 150)
            with pytest.raises(JobNotFound):
                await take_rest(events, received)
        assert text_of(received) == "x" * 60
