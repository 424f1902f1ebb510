"""Jobs as administrators see them."""

from pathlib import Path

import pytest

from dragoman.core.errors import JobNotFound, JobTimedOut
from dragoman.jobs.storage.listing import JobFilter, get_job, list_jobs
from dragoman.jobs.webhooks.message import parse_secret
from dragoman.jobs.webhooks.options import WebhookOptions
from tests.support.jobs.queue_harness import ACCEPT_ONLY, QueueHarness, queue_server, wait_until
from tests.support.jobs.webhook_receivers import SECRET
from tests.support.metered import MODEL, cost

WEBHOOKS = WebhookOptions(secret=parse_secret(SECRET), poll_seconds=3600)


async def test_jobs_are_listed_newest_first_and_page_by_page(harness: QueueHarness, tmp_path: Path) -> None:
    other_account, other_key = harness.new_account("globex")
    async with queue_server(harness, tmp_path, options=ACCEPT_ONLY) as server:
        ids = [(await server.submit(f"text {number}")).id for number in range(4)]
        of_other = await server.submit("of_other", key=other_key)
        await server.cancel(ids[1])
    everything = list_jobs(harness.database, JobFilter(), limit=2)
    assert [job.id for job in everything] == [of_other.id, ids[3]]
    rest = list_jobs(harness.database, JobFilter(), before=everything[-1].number)
    assert [job.id for job in rest] == ids[2::-1]
    assert [job.id for job in list_jobs(harness.database, JobFilter(state="cancelled"))] == [ids[1]]
    assert [job.id for job in list_jobs(harness.database, JobFilter(account_id=other_account))] == [of_other.id]
    assert len(list_jobs(harness.database, JobFilter(model=MODEL))) == 5
    assert list_jobs(harness.database, JobFilter(model="other")) == []


async def test_a_job_shows_its_hold_and_then_its_charge(harness: QueueHarness, tmp_path: Path) -> None:
    async with queue_server(harness, tmp_path, options=ACCEPT_ONLY, webhooks=WEBHOOKS) as server:
        job = await server.submit("Hello", webhook="https://user:password@receiver.test/token")
        waiting = get_job(harness.database, job.id)
        assert (waiting.hold, waiting.charge, waiting.state) == (harness.account.holds, None, "queued")
        assert waiting.webhook_origin == "https://receiver.test"
    async with queue_server(harness, tmp_path) as server:
        await server.read(job.id)
    ended = get_job(harness.database, job.id)
    assert (ended.hold, ended.charge, ended.failure) == (None, cost(5, 6), None)
    assert (ended.webhook_state, ended.webhook_attempts) == ("due", 0)
    with pytest.raises(JobNotFound):
        get_job(harness.database, "job_0")


async def test_a_failed_job_shows_its_error(harness: QueueHarness, tmp_path: Path) -> None:
    async with queue_server(harness, tmp_path, options=ACCEPT_ONLY) as server:
        job = await server.submit("Hello")
        harness.update_job(job.id, expires_at=1)
        await wait_until(lambda: harness.job_row(job.id).state == "failed")
    assert isinstance(get_job(harness.database, job.id).failure, JobTimedOut)
