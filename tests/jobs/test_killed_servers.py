"""kill -9 of the server and its processes at any moment: queued requests are still answered, and paid once."""

import asyncio
import random
from pathlib import Path

from tests.support.jobs.queue_clients import QueueClients, assert_each_charged_once
from tests.support.metered import MODEL, sqlite_account
from tests.support.processes.killable_server import killable_server
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

JOBS = 30
KILLS = 2
"""benchmarks.queue_kills has 1,000 jobs and 50 kills, and takes some minutes."""


async def test_jobs_of_a_server_killed_at_any_moment_are_each_finished_and_paid_once(tmp_path: Path) -> None:
    rng = random.Random(3)
    texts = [f"Tell me about the number {number}, please." for number in range(JOBS)]
    bodies = [{"model": MODEL, "messages": [{"role": "user", "content": text}]} for text in texts]
    with sqlite_account(tmp_path) as account_fixture:
        environment = {
            "DRAGOMAN_ACCOUNTS_DATABASE": account_fixture.url,
            "DRAGOMAN_WORKERS": "2",
            "DRAGOMAN_ECHO_TOKENS_PER_SECOND": "40",
        }
        with killable_server("echo", environment) as server:
            async with (
                asyncio.timeout(TEST_TIMEOUT_SECONDS),
                QueueClients(server.url, account_fixture.new_key()) as clients,
            ):
                submitting = asyncio.create_task(clients.submit(bodies))
                for _ in range(KILLS):
                    await asyncio.to_thread(server.kill_random_process, rng)
                await submitting
                results = await clients.results()
        answers = {number: job["result"]["choices"][0]["message"]["content"] for number, job in results.items()}
        assert answers == dict(enumerate(texts))
        assert_each_charged_once(account_fixture, JOBS)
