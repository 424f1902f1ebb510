"""How full the queue is, as every process tells it."""

from pathlib import Path

from dragoman.jobs.depths import Depth, read_depths
from dragoman.jobs.options import QueueOptions
from tests.support.metered import MODEL
from tests.support.queues import Shop, server


async def test_what_waits_and_runs_is_counted_and_the_oldest_job_is_found(shop: Shop, tmp_path: Path) -> None:
    assert read_depths(shop.database) == {}
    async with server(shop, tmp_path, options=QueueOptions(concurrency=0)) as one:
        jobs = [await one.submit(f"text {number}") for number in range(3)]
        before = shop.row(jobs[1].id).submitted_at - 3_600_000
        shop.change(jobs[0].id, state="running", lease=1, lease_until=shop.row(jobs[0].id).submitted_at + 10_000)
        shop.change(jobs[1].id, submitted_at=before)
        depth = read_depths(shop.database)[MODEL]
        assert (depth.waiting, depth.running, int(depth.oldest_seconds / 60)) == (2, 1, 60)
        assert await one.queue.depths() == await one.queue.depths()
        for job in jobs[1:]:
            await one.cancel(job.id)
        assert read_depths(shop.database) == {MODEL: Depth(running=1)}
