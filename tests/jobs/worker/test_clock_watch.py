"""A clock that is set makes all leases look expired, or endless: processes notice, and wait until they are renewed."""

import asyncio
from pathlib import Path

import pytest

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.sessions import Instant, SystemClock
from dragoman.jobs.storage.reader import ClockReading
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.values.options import CLOCK_TOLERANCE_SECONDS, LEASE_SECONDS, QueueOptions
from dragoman.jobs.worker.clock_watch import ClockWatch
from tests.support.echo_engines import BreakingEcho, FailurePoint
from tests.support.jobs.queue_harness import ACCEPT_ONLY, QueueHarness, queue_server, wait_until
from tests.support.manual_clock import ManualClock
from tests.support.metered import MODEL
from tests.support.sqlite_files import create_sqlite_database

WALL = 1_800_000_000_000


@pytest.mark.parametrize("seconds", [-3600, -2, 2, 3600])
def test_a_clock_that_was_set_is_trusted_again_after_the_time_of_a_lease(seconds: int) -> None:
    monotonic = ManualClock()
    watch = ClockWatch(monotonic)

    def read(set_by: float) -> ClockReading:
        wall = WALL + round((monotonic() + set_by) * 1000)
        return ClockReading(wall, monotonic() - 0.01, monotonic() + 0.01)

    assert watch.is_steady(read(0))
    monotonic.advance(60)
    assert watch.is_steady(read(0))
    assert not watch.is_steady(read(seconds))
    monotonic.advance(LEASE_SECONDS - 1)
    assert not watch.is_steady(read(seconds))
    monotonic.advance(2)
    assert watch.is_steady(read(seconds))


def test_a_database_that_answers_late_is_no_clock_that_was_set() -> None:
    monotonic = ManualClock()
    watch = ClockWatch(monotonic)
    for late in (0.0, 4.0, 0.0, 9.0, 0.0):
        began_at = monotonic()
        monotonic.advance(late)
        assert watch.is_steady(ClockReading(WALL + round(began_at * 1000), began_at, monotonic()))
        monotonic.advance(1)


class SettableClock(SystemClock):
    """A wall clock that a test sets."""

    ahead_seconds = 0

    def now(self) -> Instant:
        now = super().now()
        return now._replace(wall=now.wall + self.ahead_seconds * 1000)


@pytest.mark.parametrize("seconds", [-3600, 3600])
async def test_jobs_go_on_when_the_clock_is_set(tmp_path: Path, journals: Path, seconds: int) -> None:
    clock = SettableClock()
    harness = QueueHarness(Database(create_sqlite_database(tmp_path / "accounts.db"), clock))
    engine = BreakingEcho(FailurePoint(3))
    taking_over = BreakingEcho()
    async with (
        queue_server(harness, journals, engine=engine, clock=clock) as server,
        queue_server(harness, journals, engine=taking_over, clock=clock),
    ):
        job = await server.submit("parrot", logprobs=0)
        await wait_until(lambda: bool(harness.job_row(job.id).completion_tokens >= 3))
        async with server.open_stream(job.id) as events:
            await anext(events)
            lease_until = harness.job_row(job.id).lease_until
            clock.ahead_seconds = seconds
            await wait_until(lambda: harness.job_row(job.id).lease_until != lease_until)
            row = harness.job_row(job.id)
            assert (row.state, row.attempts, row.lease_until > clock.now().wall) == ("running", 1, True)
    assert not taking_over.received_requests
    harness.database.close()


def test_a_clock_that_is_set_before_expired_leases_are_ended_ends_no_other(tmp_path: Path) -> None:
    clock = SettableClock()
    database = Database(create_sqlite_database(tmp_path / "accounts.db"), clock)
    harness = QueueHarness(database)
    store = JobStore(database, QueueOptions(), 1)

    async def submit() -> None:
        async with queue_server(harness, tmp_path / "journals", options=ACCEPT_ONLY) as server:
            await server.submit("parrot")

    asyncio.run(submit())
    observed = clock.now().wall
    [job] = store.claim([MODEL], 1)
    for seconds in (3600, -3600):
        clock.ahead_seconds = seconds
        assert store.reap(observed) == []
    clock.ahead_seconds = -CLOCK_TOLERANCE_SECONDS
    assert store.reap(clock.now().wall) == [], "a step that no process notices"
    clock.ahead_seconds = LEASE_SECONDS + 1
    assert store.reap(clock.now().wall) == [job.lease.number]
    store.close()
    database.close()
