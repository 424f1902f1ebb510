"""A process that cannot renew its leases leaves its jobs before another one may take them over."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import psycopg

from dragoman.accounts.database.connections import Database
from dragoman.core.events import Event
from dragoman.core.request import GenerationRequest
from dragoman.jobs.values.options import LEASE_SECONDS
from tests.support.database_faults import locked_file
from tests.support.echo_engines import GatedEcho
from tests.support.jobs.queue_harness import ACCEPT_ONLY, QueueHarness, queue_server, text_of, wait_until
from tests.support.manual_loop import on_paced_loop, pace
from tests.support.sqlite_files import create_sqlite_database


class _TimedEcho(GatedEcho):
    """Notes when its first run was cancelled."""

    cancelled_at: float | None = None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        try:
            async for event in super().generate(request):
                yield event
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled_at = self.cancelled_at or asyncio.get_running_loop().time()
            raise


ATTEMPTS = 3
"""Two seconds before the end of a lease are half a second at this speed, by which a busy machine may be late."""

SPEED = 4


@on_paced_loop
async def test_a_job_is_left_before_its_lease_ends_while_the_database_does_not_answer(
    harness: QueueHarness, journals: Path
) -> None:
    for _ in range(ATTEMPTS):
        seconds = await _seconds_until_left(harness, journals)
        if seconds < LEASE_SECONDS:
            break
    assert seconds < LEASE_SECONDS


async def _seconds_until_left(harness: QueueHarness, journals: Path) -> float:
    """Return after how many seconds without a database a job was left."""
    engine = _TimedEcho(is_open=False)
    locked = locked_file if harness.database.is_sqlite else _locked_jobs
    async with queue_server(harness, journals, engine=engine) as server:
        job = await server.submit("parrot")
        await engine.generation_started.wait()
        await wait_until(lambda: harness.job_row(job.id).events > 0)
        pace(SPEED)
        locked_at = asyncio.get_running_loop().time()
        with locked(harness.url):
            await wait_until(lambda: engine.cancelled_at is not None)
        pace(1)
        await server.cancel(job.id)
    assert engine.cancelled_at is not None
    return engine.cancelled_at - locked_at


@contextlib.contextmanager
def _locked_jobs(url: str) -> Iterator[None]:
    """Another connection to PostgreSQL keeps jobs from being written; what else the server does goes on."""
    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE jobs IN EXCLUSIVE MODE")
        yield
        connection.rollback()


@on_paced_loop
async def test_a_claim_that_is_answered_late_is_not_lost(tmp_path: Path, journals: Path) -> None:
    with contextlib.closing(_sqlite(tmp_path)) as database:
        harness = QueueHarness(database)
        accepting = queue_server(harness, journals, options=ACCEPT_ONLY)
        async with accepting as server, queue_server(harness, journals) as running:
            job = await server.submit("parrot")
            with locked_file(harness.url):  # For less time than SQLite waits, and more than callers do.
                pace(SPEED)
                await asyncio.sleep(2 * SPEED)
                pace(1)
            async with asyncio.timeout(LEASE_SECONDS):
                assert text_of(await running.read(job.id)) == "parrot"


def _sqlite(folder: Path) -> Database:
    """PostgreSQL's locks would hold up the poll as well, upon which no jobs are claimed."""
    return Database(create_sqlite_database(folder / "accounts.db"))
