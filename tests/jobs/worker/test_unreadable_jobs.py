"""A job that a newer version of dragoman wrote waits for a server that can read it."""

from pathlib import Path

import pytest
from sqlalchemy import select, update

from dragoman.accounts.database.tables import job_events, job_requests
from dragoman.core.events import Usage
from dragoman.jobs.storage.reader import JobReader
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.worker.unreadable import MAX_UNREADABLE, UnreadableJobs
from tests.support.echo_engines import BreakingEcho, FailurePoint
from tests.support.jobs.queue_harness import ACCEPT_ONLY, QueueHarness, queue_server, text_of, wait_until

OF_A_NEWER_VERSION = b"\0\x81\xa4video\x90"
EVENTS_OF_A_NEWER_VERSION = b"\0\x91\x92\xa5video\x00"
ONE_AT_A_TIME = QueueOptions(concurrency=1, max_attempts=1)


def replace_requests(harness: QueueHarness, job_id: str, payload: bytes) -> bytes:
    """Replace what is stored of the request. Returns what it was."""
    number = harness.job_row(job_id).number
    with harness.database.write() as connection:
        query = select(job_requests.c.requests).where(job_requests.c.job == number)
        before = bytes(connection.execute(query).scalar_one())
        connection.execute(update(job_requests).where(job_requests.c.job == number).values(requests=payload))
    return before


async def test_a_request_of_a_newer_version_is_left_to_servers_of_that_version(
    harness: QueueHarness, journals: Path
) -> None:
    async with queue_server(harness, journals, options=ACCEPT_ONLY) as accepting:
        newer = await accepting.submit("newer")
        request = replace_requests(harness, newer.id, OF_A_NEWER_VERSION)
        behind = [await accepting.submit(f"behind {number}") for number in range(3)]
        async with queue_server(harness, journals, options=ONE_AT_A_TIME) as older:
            for number, job in enumerate(behind):
                assert text_of(await older.read(job.id)) == f"behind {number}"
            row = harness.job_row(newer.id)
            assert (row.state, row.attempts) == ("queued", 0)
            assert older.counter_value("dragoman_job_attempts_total", model="echo", result="requeued") == 1
            replace_requests(harness, newer.id, request)
            async with queue_server(harness, journals) as upgraded:
                assert text_of(await upgraded.read(newer.id)) == "newer"
    harness.assert_settled()


async def test_an_answer_that_a_newer_version_began_is_left_to_servers_of_that_version(
    harness: QueueHarness, journals: Path
) -> None:
    async with queue_server(harness, journals, engine=BreakingEcho(FailurePoint(3))) as server:
        job = await server.submit("newer")
        await wait_until(lambda: bool(harness.job_row(job.id).completion_tokens >= 3))
    number = harness.job_row(job.id).number
    [*_, last] = JobReader(harness.database).events(number, 0)
    rows = job_events.c.job == number, job_events.c.first == last.first
    with harness.database.write() as connection:
        payload = connection.execute(select(job_events.c.payload).where(*rows)).scalar_one()
        connection.execute(update(job_events).where(*rows).values(payload=EVENTS_OF_A_NEWER_VERSION))
    async with queue_server(harness, journals, options=ONE_AT_A_TIME) as older:
        behind = await older.submit("behind")
        assert text_of(await older.read(behind.id)) == "behind"
        assert harness.job_row(job.id).state == "queued"
    with harness.database.write() as connection:
        connection.execute(update(job_events).where(*rows).values(payload=payload))
    async with queue_server(harness, journals, engine=BreakingEcho()) as upgraded:
        events = await upgraded.read(job.id)
    assert text_of(events) == "newer"
    assert isinstance(events[-1], Usage)
    harness.assert_settled()


@pytest.mark.parametrize("count", [MAX_UNREADABLE, MAX_UNREADABLE + 1])
def test_a_process_remembers_a_bounded_number_of_jobs(count: int) -> None:
    unreadable = UnreadableJobs()
    remembered = [unreadable.add(number) for number in range(count)]
    assert sum(remembered) == len(unreadable.numbers) == MAX_UNREADABLE
