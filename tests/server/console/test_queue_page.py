"""The console's pages of the queue, without a browser: what a job shows, and what is done with it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dragoman.accounts.database.connections import Database
from dragoman.engines.echo import EchoEngine
from dragoman.jobs.storage.listing import get_job
from dragoman.jobs.webhooks.message import parse_secret
from dragoman.jobs.webhooks.options import WebhookOptions
from tests.support.accounting import ADMIN_KEY
from tests.support.console import CHAT, ConsoleClient, another_client, console_app, console_client, plain
from tests.support.jobs.queue_harness import QueueHarness
from tests.support.jobs.webhook_receivers import SECRET
from tests.support.sqlite_files import create_sqlite_database

WEBHOOKS = WebhookOptions(secret=parse_secret(SECRET), poll_seconds=3600)


@pytest.fixture
def account(tmp_path: Path) -> Iterator[QueueHarness]:
    database = Database(create_sqlite_database(tmp_path / "accounts.db"))
    yield QueueHarness(database)
    database.close()


async def submit(client: ConsoleClient, **headers: str) -> str:
    """Queue a chat, and return the job's id."""
    sent = {"x-form-token": await client.token("/playground"), "prefer": "respond-async", **headers}
    queued = await client.http.post("/console/api/v1/chat/completions", json=CHAT, headers=sent)
    assert queued.status_code == 202, queued.text
    return queued.headers["x-dragoman-job-id"]


async def test_a_job_shows_its_place_and_gets_another_priority(account: QueueHarness, tmp_path: Path) -> None:
    slow = {"echo": EchoEngine(tokens_per_second=0.5)}
    app = console_app(account.database, tmp_path / "journals", engines=slow, concurrent_jobs=0)
    async with console_client(app, key=account.key) as holder, another_client(app, key=ADMIN_KEY) as operator:
        first, second = await submit(holder), await submit(holder)
        page = plain((await operator.get(f"/queue/{second}")).text)
        assert ("Place in the queue 2" in page, "Owner acme" in page, "Worker" in page) == (True, True, False)
        assert "Owner" not in plain((await holder.get(f"/queue/{second}")).text)
        path = f"/queue/{second}"
        assert (await holder.submit(path, f"{path}/priority", priority="1")).status_code == 403
        assert (await operator.submit(path, f"{path}/priority", priority="1")).status_code == 303
        assert "Place in the queue 1" in plain((await operator.get(path)).text)
        assert "Place in the queue 2" in plain((await operator.get(f"/queue/{first}")).text)
        for wrong in ("256", "-1", "high", ""):
            assert (await operator.submit(path, f"{path}/priority", priority=wrong)).status_code == 400, wrong
        await holder.submit(path, f"{path}/cancel")
        late = await operator.submit(path, f"{path}/priority", priority="2")
        assert (late.status_code, "only a job that waits" in late.text) == (400, True)


async def test_an_empty_queue_says_how_to_fill_it_and_how_long_answers_are_kept(
    account: QueueHarness, tmp_path: Path
) -> None:
    app = console_app(account.database, tmp_path / "journals", result_ttl_hours=36)
    async with console_client(app, key=account.key) as holder:
        assert "its answer is kept for 1 d 12 h: Prefer" in plain((await holder.get("/queue")).text)


async def test_a_running_job_shows_its_worker_and_its_lease(account: QueueHarness, tmp_path: Path) -> None:
    slow = console_app(account.database, tmp_path / "journals", engines={"echo": EchoEngine(tokens_per_second=0.5)})
    async with console_client(slow, key=account.key) as holder, another_client(slow, key=ADMIN_KEY) as operator:
        job = await submit(holder)
        while get_job(account.database, job).state == "queued":
            await holder.get("/queue")  # It is claimed within a poll.
        page = plain((await operator.get(f"/queue/{job}")).text)
        assert re.search("Worker 0, whose lease ends .* unless it renews it", page)
        assert "Worker" not in plain((await holder.get(f"/queue/{job}")).text)


async def test_a_webhook_is_sent_again(account: QueueHarness, tmp_path: Path) -> None:
    app = console_app(account.database, tmp_path / "journals", concurrent_jobs=0, webhooks=WEBHOOKS)
    async with console_client(app, key=account.key) as client:
        job = await submit(client, **{"x-dragoman-webhook": "https://receiver.test/token"})
        path = f"/queue/{job}"
        early = await client.submit(path, f"{path}/webhook")
        assert (early.status_code, "no webhook to send" in early.text) == (400, True)
        await client.submit(path, f"{path}/cancel")
        assert "Receiver https://receiver.test State due Attempts 0" in plain((await client.get(path)).text)
        account.update_job(job, webhook_state="failed", webhook_at=None, webhook_attempts=8)
        assert "State failed Attempts 8" in plain((await client.get(path)).text)
        assert (await client.submit(path, f"{path}/webhook")).status_code == 303
    entry = get_job(account.database, job)
    assert (entry.webhook_state, entry.webhook_attempts, entry.webhook_at is None) == ("due", 0, False)
