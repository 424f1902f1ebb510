"""How full the queue is, as every process tells it."""

from pathlib import Path

from dragoman.jobs.service.depths import QueueDepth, read_depths
from dragoman.jobs.values.options import QueueOptions
from tests.support.metered import MODEL
from tests.support.queues import QueueHarness, queue_server


async def test_waiting_and_running_jobs_are_counted_and_the_oldest_is_found(
    harness: QueueHarness, tmp_path: Path
) -> None:
    assert read_depths(harness.database) == {}
    async with queue_server(harness, tmp_path, options=QueueOptions(concurrency=0)) as one:
        jobs = [await one.submit(f"text {number}") for number in range(3)]
        before = harness.job_row(jobs[1].id).submitted_at - 3_600_000
        harness.update_job(
            jobs[0].id, state="running", lease=1, lease_until=harness.job_row(jobs[0].id).submitted_at + 10_000
        )
        harness.update_job(jobs[1].id, submitted_at=before)
        depth = read_depths(harness.database)[MODEL]
        assert (depth.waiting, depth.running, int(depth.oldest_seconds / 60)) == (2, 1, 60)
        assert await one.queue.depths() == await one.queue.depths()
        for job in jobs[1:]:
            await one.cancel(job.id)
        assert read_depths(harness.database) == {MODEL: QueueDepth(running=1)}
