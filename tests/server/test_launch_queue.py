"""The queue in the server's processes: their settings, and their common metrics."""

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.jobs.values.options import QueueOptions
from tests.support.jobs.queue_harness import QueueHarness, queue_server
from tests.support.jobs.webhook_receivers import SECRET, WebhookReceiver, running_receiver
from tests.support.server import WORKER_PROCESS, running_server
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[QueueHarness]:
    database = Database(f"sqlite:///{tmp_path}/accounts.db")
    upgrade(database)
    yield QueueHarness(database)
    database.close()


async def test_workers_run_jobs_another_server_accepted_and_share_their_metrics(
    harness: QueueHarness, tmp_path: Path
) -> None:
    settings = tmp_path / "dragoman.toml"
    settings.write_text("[queue]\nwebhook_allow_http = true\nwebhook_allow_private_addresses = true\n")
    environment = {
        "DRAGOMAN_ACCOUNTS_DATABASE": f"sqlite:///{tmp_path}/accounts.db",
        "DRAGOMAN_QUEUE_WEBHOOK_SECRET": SECRET,
        "DRAGOMAN_LOG_LEVEL": "debug",
    }
    arguments = ("--workers", "2", "--config", str(settings))
    async with running_receiver(WebhookReceiver(500)) as receiver:
        async with queue_server(harness, tmp_path, options=QueueOptions(concurrency=0)) as accepting_server:
            for _ in range(4):
                job = await accepting_server.submit("Hello")
                harness.update_job(job.id, webhook=receiver.url(), webhook_host="127.0.0.1")
        with tmp_path.joinpath("errors").open("w+") as errors:
            with running_server("echo", *arguments, environment=environment, errors=errors) as processes:
                for each in await receiver.wait_for(4):
                    each.assert_signed()
                counted = metrics(processes.url, harness.key)
                output = processes.arguments(WORKER_PROCESS)
            errors.seek(0)
            output += errors.read()
    assert "webhook_delivery_failed" in output
    assert not any(secret in output for secret in (SECRET, "token=secret"))
    assert counted['dragoman_job_attempts_total{model="echo",result="finished"}'] == 4
    for name in ("jobs_waiting", "jobs_running", "oldest_job_age_seconds"):
        assert counted[f'dragoman_queue_{name}{{model="echo"}}'] == 0


def metrics(url: str, key: str) -> dict[str, float]:
    """Return the samples of all workers, by name and labels."""
    request = urllib.request.Request(f"{url}/metrics", headers={"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=TEST_TIMEOUT_SECONDS) as response:
        lines = response.read().decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


@pytest.mark.parametrize("secret", ["hunter2", "whsec_aHVudGVyMg==", "whsec_hunter2 hunter2 hunter2 hunter2"])
def test_a_secret_that_cannot_be_used_stops_the_start_and_is_not_repeated(tmp_path: Path, secret: str) -> None:
    file = tmp_path / "dragoman.toml"
    file.write_text(f'[queue]\nwebhook_secret = "{secret}"\n')
    command = [sys.executable, "-m", "dragoman", "serve", "echo", "--port", "0", "--config", str(file)]
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=TEST_TIMEOUT_SECONDS, check=False, env=environment
    )
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert re.match("dragoman: queue.webhook_secret must be whsec_ and 24 to 64 random bytes in base64", line)
    assert secret not in line
