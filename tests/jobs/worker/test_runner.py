"""How often a process asks the database for jobs."""

import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from dragoman.jobs.values.options import IDLE_POLL_SECONDS
from tests.support.echo_engines import GatedEcho
from tests.support.jobs.queue_harness import QueueHarness, queue_server, text_of, wait_until


@pytest.fixture
def polls() -> Iterator[list[float]]:
    """When the queue was polled, by the monotonic clock. A poll is the statement with several conditions."""
    times: list[float] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.count("EXISTS") > 2:
            times.append(time.monotonic())

    event.listen(Engine, "before_cursor_execute", note)
    yield times
    event.remove(Engine, "before_cursor_execute", note)


async def test_an_empty_queue_is_polled_once_a_second_and_more_often_while_a_job_runs(
    harness: QueueHarness, journals: Path, polls: list[float]
) -> None:
    engine = GatedEcho(is_open=False)
    async with queue_server(harness, journals, engine=engine) as server:
        await wait_until(lambda: len(polls) > 2)
        assert _shortest_pause(polls) > 0.9 * IDLE_POLL_SECONDS
        job = await server.submit("parrot")
        await engine.generation_started.wait()
        running = len(polls)
        await wait_until(lambda: _shortest_pause(polls[running:]) < 0.9 * IDLE_POLL_SECONDS)
        engine.gate.set()
        assert text_of(await server.read(job.id)) == "parrot"


def _shortest_pause(times: list[float]) -> float:
    return min((later - earlier for earlier, later in itertools.pairwise(times)), default=math.inf)
