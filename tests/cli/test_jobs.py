"""`dragoman jobs`, as users type it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.cli.main import app
from dragoman.engines.echo import EchoEngine
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.webhooks.message import parse_secret
from dragoman.jobs.webhooks.options import WebhookOptions
from tests.support.jobs.queue_harness import QueueHarness, QueueServer, queue_server, text_of, wait_until
from tests.support.jobs.webhook_receivers import SECRET
from tests.support.metered import MODEL


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[QueueHarness]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRAGOMAN_ACCOUNTS_DATABASE", f"sqlite:///{tmp_path}/accounts.db")
    database = Database(f"sqlite:///{tmp_path}/accounts.db")
    upgrade(database)
    yield QueueHarness(database)
    database.close()


@pytest.fixture
async def idle_server(harness: QueueHarness, tmp_path: Path) -> AsyncIterator[QueueServer]:
    """A server that accepts jobs and runs none."""
    async with queue_server(harness, tmp_path, options=QueueOptions(concurrency=0)) as one:
        yield one


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["jobs", *arguments])
    assert result.exit_code == status, result.output
    return result


def rows(table: str) -> list[list[str]]:
    """Return the rows of a printed table, without its header."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in table.splitlines() if line[0] == "│"]


async def test_jobs_are_listed_and_filtered(idle_server: QueueServer) -> None:
    jobs = [await idle_server.submit(f"text {number}", priority=number) for number in range(3)]
    listed = rows(run("list").stdout)
    assert [row[1] for row in listed] == [job.id for job in reversed(jobs)]
    assert listed[0][2:6] == ["queued", MODEL, "account 1", "2"]
    assert [row[1] for row in rows(run("list", "--limit", "1", "--before", listed[0][0]).stdout)] == [jobs[1].id]
    run("cancel", jobs[0].id)
    assert [row[1] for row in rows(run("list", "--state", "cancelled", "--account", "acme").stdout)] == [jobs[0].id]
    assert rows(run("list", "--model", "other").stdout) == []


async def test_a_job_is_cancelled_shown_and_run_again(
    idle_server: QueueServer, harness: QueueHarness, tmp_path: Path
) -> None:
    job = await idle_server.submit("Hello")
    assert "state              queued" in run("show", job.id).stdout
    assert run("cancel", job.id).stdout == f"{job.id} is cancelled\n"
    assert (await idle_server.job(job.id)).state == "cancelled"
    assert run("cancel", job.id, status=1).stderr == f"dragoman: Job {job.id} is cancelled already\n"
    assert "charge             0.00" in run("show", job.id).stdout
    assert run("retry", job.id).stdout == f"{job.id} is queued\n"
    assert run("retry", job.id, status=1).stderr.startswith(f"dragoman: Job {job.id} is queued; only failed")
    async with queue_server(harness, tmp_path) as one:
        assert text_of(await one.read(job.id)) == "Hello"
    shown = run("show", job.id).stdout
    for fact in ("finished", MODEL, "account 1", "completion tokens  6", "0.00000023"):
        assert fact in shown
    harness.assert_settled()


async def test_cancelling_a_running_job_stops_it_in_its_server(harness: QueueHarness, tmp_path: Path) -> None:
    async with queue_server(harness, tmp_path, engine=EchoEngine(tokens_per_second=20)) as one:
        job = await one.submit("Hello" * 200)
        async with one.open_stream(job.id) as events:
            await anext(events)
            assert harness.job_row(job.id).state == "running"
            run("cancel", job.id)
        assert (await one.job(job.id)).state == "cancelled"
    harness.assert_settled()


async def test_all_jobs_of_a_key_are_cancelled(harness: QueueHarness, tmp_path: Path) -> None:
    other_key = harness.new_key()
    async with queue_server(harness, tmp_path, engine=EchoEngine(tokens_per_second=20)) as running:
        stopped = await running.submit("Hello" * 200)
        await wait_until(lambda: harness.job_row(stopped.id).events > 0)
        async with queue_server(harness, tmp_path, options=QueueOptions(concurrency=0)) as idle:
            harness.update_job(stopped.id, priority=0)
            waiting = [await idle.submit("Hello", model="echo") for _ in range(3)]
            spared = await idle.submit("Hello", key=other_key)
            assert run("cancel", "--key", "1").stdout == "4 jobs of key 1 are cancelled\n"
            assert run("cancel", "--key", "1").stdout == "0 jobs of key 1 are cancelled\n"
            assert {(await idle.job(each.id)).state for each in (stopped, *waiting)} == {"cancelled"}
            assert text_of(await running.read(spared.id)) == "Hello"
    assert run("cancel", "--key", "7", status=1).stderr.startswith("dragoman: ")
    run("cancel", status=2)
    run("cancel", spared.id, "--key", "1", status=2)
    harness.assert_settled()


async def test_a_waiting_job_is_moved_before_the_others(idle_server: QueueServer) -> None:
    first, second = [await idle_server.submit(text) for text in ("one", "two")]
    assert run("prioritize", second.id, "7").stdout == f"{second.id} has priority 7\n"
    assert [(await idle_server.job(each.id)).position for each in (first, second)] == [2, 1]
    run("prioritize", second.id, "256", status=2)
    run("cancel", second.id)
    assert run("prioritize", second.id, "8", status=1).stderr.startswith(f"dragoman: Job {second.id} is cancelled")


async def test_a_webhook_is_due_again(harness: QueueHarness, tmp_path: Path) -> None:
    webhooks = WebhookOptions(secret=parse_secret(SECRET), poll_seconds=3600)
    async with queue_server(harness, tmp_path, options=QueueOptions(concurrency=0), webhooks=webhooks) as one:
        job = await one.submit("Hello", webhook="https://receiver.test/token")
        assert run("send-webhook", job.id, status=1).stderr.startswith(f"dragoman: Job {job.id} has no webhook to send")
        run("cancel", job.id)
    harness.update_job(job.id, webhook_state="failed", webhook_at=None, webhook_attempts=8)
    assert run("send-webhook", job.id).stdout == f"the webhook of {job.id} is due\n"
    row = harness.job_row(job.id)
    assert (row.webhook_state, row.webhook_attempts, row.webhook_at is None) == ("due", 0, False)


@pytest.mark.parametrize("command", ["show", "cancel", "retry", "send-webhook"])
@pytest.mark.usefixtures("harness")
def test_an_unknown_job_is_reported_in_one_line(command: str) -> None:
    assert run(command, "job_7", status=1).stderr == "dragoman: Job 'job_7' not found\n"


async def test_a_job_of_a_revoked_key_is_not_run_again(idle_server: QueueServer) -> None:
    job = await idle_server.submit("Hello")
    run("cancel", job.id)
    CliRunner().invoke(app, ["keys", "revoke", "1"])
    assert run("retry", job.id, status=1).stderr == "dragoman: The API key is disabled\n"
