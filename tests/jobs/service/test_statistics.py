"""Queue depths and estimated times."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dragoman.jobs.service.statistics import running_eta, waiting_eta
from dragoman.jobs.storage.reader import JobReader, ModelStatistics, QueueDepth
from tests.support.jobs.queue_harness import ACCEPT_ONLY, QueueHarness, queue_server
from tests.support.metered import MODEL


def test_the_eta_is_zero_without_measurements() -> None:
    assert waiting_eta(ModelStatistics(0, 3, {}), 10, 16) == 0
    assert running_eta(ModelStatistics(0, 3, {}), 1) == 0


def test_a_job_with_a_free_slot_takes_as_long_as_the_last_ones() -> None:
    assert waiting_eta(ModelStatistics(4.0, 2, {}), 2, 4) == 4


def test_a_job_behind_others_waits_for_as_many_rounds_as_there_are() -> None:
    assert waiting_eta(ModelStatistics(4.0, 4, {}), 1, 4) == 6
    assert waiting_eta(ModelStatistics(4.0, 4, {}), 9, 4) == 14


def test_the_eta_of_a_running_job_is_its_remaining_time() -> None:
    assert running_eta(ModelStatistics(4.0, 1, {}), 1.5) == 3
    assert running_eta(ModelStatistics(4.0, 1, {}), 9) == 0


@given(st.floats(0, 1000), st.integers(0, 20), st.integers(1, 1000), st.integers(0, 20))
def test_the_eta_never_falls_with_the_position(seconds: float, running: int, position: int, slots: int) -> None:
    statistics = ModelStatistics(seconds, running, {})
    assert 0 <= waiting_eta(statistics, position, slots) <= waiting_eta(statistics, position + 1, slots)


async def test_waiting_and_running_jobs_are_counted_and_the_oldest_is_found(
    harness: QueueHarness, tmp_path: Path
) -> None:
    reader = JobReader(harness.database)
    assert reader.depths() == {}
    async with queue_server(harness, tmp_path, options=ACCEPT_ONLY) as server:
        jobs = [await server.submit(f"text {number}") for number in range(3)]
        before = harness.job_row(jobs[1].id).submitted_at - 3_600_000
        harness.update_job(
            jobs[0].id, state="running", lease=1, lease_until=harness.job_row(jobs[0].id).submitted_at + 10_000
        )
        harness.update_job(jobs[1].id, submitted_at=before)
        depth = reader.depths()[MODEL]
        assert (depth.waiting, depth.running, int(depth.oldest_seconds / 60)) == (2, 1, 60)
        assert await server.queue.depths() == await server.queue.depths()
        for job in jobs[1:]:
            await server.cancel(job.id)
        assert reader.depths() == {MODEL: QueueDepth(running=1)}
