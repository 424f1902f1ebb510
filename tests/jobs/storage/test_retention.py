"""Results are kept up to a limit of time and of bytes, and are removed with all their rows."""

from pathlib import Path

from sqlalchemy import func, select

from dragoman.accounts.database.tables import idempotent_requests, job_events, job_requests, jobs
from dragoman.core.idempotency import IdempotentRequest
from dragoman.jobs.storage.retention import Retention
from dragoman.jobs.values.batches import MAX_BATCH_BYTES
from dragoman.jobs.values.options import QueueOptions
from tests.support.jobs.queue_harness import ACCEPT_ONLY, QueueHarness, queue_server

HOUR = 3_600_000


def count_jobs(harness: QueueHarness) -> list[int]:
    """Return how many jobs have rows in each of the tables."""
    columns = (jobs.c.number, job_requests.c.job, job_events.c.job, idempotent_requests.c.job_id)
    with harness.database.read() as connection:
        return [connection.execute(select(func.count(column.distinct()))).scalar_one() for column in columns]


async def run_jobs(harness: QueueHarness, journals: Path, count: int) -> list[str]:
    async with queue_server(harness, journals) as server:
        submitted = [
            await server.submit("x", idempotent_request=IdempotentRequest("", f"key {n}", "f")) for n in range(count)
        ]
        for job in submitted:
            await server.read(job.id)
    return [job.id for job in submitted]


async def test_a_result_is_kept_for_the_configured_hours_after_its_end(harness: QueueHarness, journals: Path) -> None:
    old, new = await run_jobs(harness, journals, 2)
    options = QueueOptions(result_ttl_hours=2)
    harness.update_job(old, ended_at=harness.job_row(old).ended_at - 2 * HOUR - 1)
    harness.update_job(new, ended_at=harness.job_row(new).ended_at - 1 * HOUR)
    retention = Retention(harness.database, options)
    assert count_jobs(harness) == [2, 2, 2, 2]
    assert [retention.sweep(), retention.sweep()] == [1, 0]
    assert count_jobs(harness) == [1, 1, 1, 1]
    assert harness.job_row(new).state == "finished"
    harness.assert_settled()


async def test_results_above_the_byte_limit_are_removed_oldest_first(harness: QueueHarness, journals: Path) -> None:
    ids = await run_jobs(harness, journals, 4)
    for age, job_id in enumerate(reversed(ids)):
        harness.update_job(job_id, ended_at=harness.job_row(job_id).ended_at - age * 1000)
    size = sum(harness.job_row(job_id).bytes for job_id in ids[2:])
    retention = Retention(harness.database, QueueOptions(max_result_bytes=size))
    assert [retention.sweep(), retention.sweep()] == [2, 0]
    assert [harness.job_row(job_id).id for job_id in ids[2:]] == ids[2:]
    assert count_jobs(harness) == [2, 2, 2, 2]


async def test_large_jobs_are_removed_in_several_transactions(harness: QueueHarness, journals: Path) -> None:
    for job_id in await run_jobs(harness, journals, 5):
        harness.update_job(job_id, ended_at=1, bytes=MAX_BATCH_BYTES // 2)
    retention = Retention(harness.database, QueueOptions())
    assert [retention.sweep() for _ in range(4)] == [2, 2, 1, 0]
    assert count_jobs(harness) == [0, 0, 0, 0]


async def test_jobs_that_have_not_ended_are_never_removed(harness: QueueHarness, journals: Path) -> None:
    async with queue_server(harness, journals, options=ACCEPT_ONLY) as server:
        job = await server.submit("x")
    harness.update_job(job.id, submitted_at=0)
    assert Retention(harness.database, QueueOptions(result_ttl_hours=0.001, max_result_bytes=0)).sweep() == 0
    assert harness.job_row(job.id).state == "queued"


async def test_the_bytes_of_a_job_are_the_bytes_of_its_count_jobs(harness: QueueHarness, journals: Path) -> None:
    [job_id] = await run_jobs(harness, journals, 1)
    row = harness.job_row(job_id)
    with harness.database.read() as connection:
        request = connection.execute(select(job_requests).where(job_requests.c.job == row.number)).one()
        events = connection.execute(select(job_events.c.payload).where(job_events.c.job == row.number)).scalars()
        assert row.bytes == len(request.requests) + len(request.form) + sum(map(len, events))


async def test_above_the_byte_limit_the_owners_with_the_most_stored_lose_their_oldest(
    harness: QueueHarness, journals: Path
) -> None:
    _, other = harness.new_account("other")
    async with queue_server(harness, journals) as server:
        modest = await server.submit("x", key=other)
        await server.read(modest.id, key=other)
        greedy = [await server.submit("x") for _ in range(4)]
        for job in greedy:
            await server.read(job.id)
    for age, job in enumerate((*reversed(greedy), modest)):
        harness.update_job(job.id, ended_at=harness.job_row(job.id).ended_at - age * 1000, bytes=1000)
    retention = Retention(harness.database, QueueOptions(max_result_bytes=3500))
    assert [retention.sweep(), retention.sweep()] == [2, 0]
    for job in (modest, *greedy[2:]):
        assert harness.job_row(job.id).state == "finished"
