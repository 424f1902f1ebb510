"""What a job pays that breaks off after some tokens: cached tokens of its prompt at their own price."""

from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import update

from dragoman.accounts.database.tables import job_events
from dragoman.core.errors import EngineFailed
from dragoman.core.events import Event, Started
from dragoman.core.request import GenerationRequest
from dragoman.jobs.values.options import QueueOptions
from tests.support.echo_engines import BreakingEcho, FailurePoint
from tests.support.jobs.queue_harness import QueueHarness, queue_server, wait_until
from tests.support.metered import cost

TEXT = "a parrot says what it was told"
CACHED = 20
FAILURE = EngineFailed("The engine fell over")


class CachingEcho(BreakingEcho):
    """Has some of each prompt's tokens in its cache."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        async for event in super().generate(request):
            yield msgspec.structs.replace(event, cached_tokens=CACHED) if isinstance(event, Started) else event


def charges(harness: QueueHarness) -> list[tuple[str, int, int]]:
    return [(used.result, used.cached_tokens, used.charge) for used in harness.usage]


@pytest.mark.parametrize("best_of", [None, 2])
async def test_a_cancelled_job_pays_the_price_of_cached_tokens(
    harness: QueueHarness, journals: Path, best_of: int | None
) -> None:
    async with queue_server(harness, journals, engine=CachingEcho(FailurePoint(5))) as server:
        job = await server.submit(TEXT, best_of=best_of)
        await wait_until(lambda: bool(harness.job_row(job.id).completion_tokens >= 5))
        await server.cancel(job.id)
    assert charges(harness) == [("disconnected", CACHED, cost(len(TEXT), 5, CACHED))]
    harness.assert_settled()


async def test_a_job_that_fails_after_a_part_was_read_pays_the_price_of_cached_tokens(
    harness: QueueHarness, journals: Path
) -> None:
    engine = CachingEcho(FailurePoint(5), FailurePoint(5, FAILURE))
    async with queue_server(harness, journals, engine=engine, options=QueueOptions(max_attempts=1)) as server:
        job = await server.submit(TEXT)
        async with server.open_stream(job.id) as events:
            await anext(events)
            await wait_until(lambda: bool(harness.job_row(job.id).completion_tokens >= 5))
            harness.update_job(job.id, lease_until=0)
            with pytest.raises(EngineFailed, match="fell over"):
                async for _ in events:
                    pass
    assert charges(harness) == [("failed", CACHED, cost(len(TEXT), 5, CACHED))]
    harness.assert_settled()


async def test_a_job_whose_events_cannot_be_read_is_cancelled_all_the_same(
    harness: QueueHarness, journals: Path
) -> None:
    async with queue_server(harness, journals, engine=CachingEcho(FailurePoint(5))) as server:
        job = await server.submit(TEXT)
        await wait_until(lambda: bool(harness.job_row(job.id).completion_tokens >= 5))
        with harness.database.write() as connection:
            connection.execute(update(job_events).values(payload=b"\0\x91\x91\xa3new"))
        assert (await server.cancel(job.id)).state == "cancelled"
    assert charges(harness) == [("disconnected", 0, cost(len(TEXT), 5))]
    harness.assert_settled()
