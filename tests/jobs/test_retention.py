"""Results are kept for so long and so many bytes, and go with all that belongs to them."""

from pathlib import Path

import pytest
from sqlalchemy import func, select

from dragoman.accounts.tables import idempotent_requests, job_events, job_requests, jobs
from dragoman.core.idempotency import Attempt
from dragoman.jobs.options import QueueOptions
from dragoman.jobs.retention import Retention
from tests.support.queues import Shop, server

HOUR = 3_600_000


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    return tmp_path / "journals"


def rows(shop: Shop) -> list[int]:
    """How many jobs each of the tables tells of."""
    columns = (jobs.c.number, job_requests.c.job, job_events.c.job, idempotent_requests.c.job_id)
    with shop.database.read() as connection:
        return [connection.execute(select(func.count(column.distinct()))).scalar_one() for column in columns]


async def finished(shop: Shop, journals: Path, count: int) -> list[str]:
    async with server(shop, journals) as one:
        submitted = [await one.submit("x", attempt=Attempt("", f"key {n}", "f")) for n in range(count)]
        for job in submitted:
            await one.read(job.id)
    return [job.id for job in submitted]


async def test_a_result_is_kept_for_the_hours_set_from_its_end_on(shop: Shop, journals: Path) -> None:
    old, new = await finished(shop, journals, 2)
    options = QueueOptions(result_hours=2)
    shop.change(old, ended_at=shop.row(old).ended_at - 2 * HOUR - 1)
    shop.change(new, ended_at=shop.row(new).ended_at - 1 * HOUR)
    retention = Retention(shop.database, options)
    assert rows(shop) == [2, 2, 2, 2]
    assert [retention.sweep(), retention.sweep()] == [1, 0]
    assert rows(shop) == [1, 1, 1, 1]
    assert shop.row(new).state == "finished"
    shop.assert_settled()


async def test_results_above_the_bytes_set_go_oldest_first(shop: Shop, journals: Path) -> None:
    ids = await finished(shop, journals, 4)
    for age, job_id in enumerate(reversed(ids)):
        shop.change(job_id, ended_at=shop.row(job_id).ended_at - age * 1000)
    room = sum(shop.row(job_id).bytes for job_id in ids[2:])
    retention = Retention(shop.database, QueueOptions(result_bytes=room))
    assert [retention.sweep(), retention.sweep()] == [2, 0]
    assert [shop.row(job_id).id for job_id in ids[2:]] == ids[2:]
    assert rows(shop) == [2, 2, 2, 2]


async def test_what_has_not_ended_is_never_removed(shop: Shop, journals: Path) -> None:
    async with server(shop, journals, options=QueueOptions(concurrency=0)) as one:
        job = await one.submit("x")
    shop.change(job.id, submitted_at=0)
    assert Retention(shop.database, QueueOptions(result_hours=0.001, result_bytes=0)).sweep() == 0
    assert shop.row(job.id).state == "queued"


async def test_the_bytes_of_a_job_are_those_of_what_is_stored_for_it(shop: Shop, journals: Path) -> None:
    [job_id] = await finished(shop, journals, 1)
    row = shop.row(job_id)
    with shop.database.read() as connection:
        request = connection.execute(select(job_requests).where(job_requests.c.job == row.number)).one()
        events = connection.execute(select(job_events.c.payload).where(job_events.c.job == row.number)).scalars()
        assert row.bytes == len(request.requests) + len(request.form) + sum(map(len, events))
