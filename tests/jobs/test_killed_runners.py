"""Processes that are killed while they run jobs: no job is lost or stuck, and each is paid once."""

import asyncio
import contextlib
import multiprocessing
import os
import random
import signal
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

from sqlalchemy import func, select, update

from dragoman.accounts.database.tables import jobs
from dragoman.engines.echo import EchoEngine
from tests.support.jobs.queue_harness import ACCEPT_ONLY, QueueHarness, queue_server, text_of, wait_until
from tests.support.metered import cost
from tests.support.processes.queue_process import QueueProcessOptions, serve_queue
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

KILLS = 4
JOBS = 60
TOKENS_PER_SECOND = 60.0
"""An answer takes half a second."""


def test_jobs_outlive_the_processes_that_run_them(harness: QueueHarness, database_url: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.processes.queue_process"])
    options = QueueProcessOptions(database_url, tmp_path / "journals", TOKENS_PER_SECOND)
    asyncio.run(_run(harness, options, context))
    harness.assert_settled()


async def _run(harness: QueueHarness, options: QueueProcessOptions, context: ForkServerContext) -> None:
    rng = random.Random(6)
    texts = [f"job {number}: " + "x" * rng.randint(0, 30) for number in range(JOBS)]
    engine = EchoEngine(tokens_per_second=TOKENS_PER_SECOND)
    async with queue_server(harness, options.journals, options=ACCEPT_ONLY) as front:
        submitted = [await front.submit(text) for text in texts]
        for _ in range(KILLS):
            with _running_until_killed(context, options):
                await _wait_for_tokens(harness, rng.randint(50, 300))
            _expire_leases(harness)
        async with queue_server(harness, options.journals, engine=engine):
            answers = await asyncio.gather(*(front.read(job.id) for job in submitted))
    assert [text_of(events) for events in answers] == texts
    charged = {used.request_id: (used.result, used.charge) for used in harness.usage}
    assert len(harness.usage) == JOBS
    assert charged == {
        job.stored_request.answer_id: ("finished", cost(len(text), len(text) + 1))
        for job, text in zip(submitted, texts, strict=True)
    }


@contextlib.contextmanager
def _running_until_killed(context: ForkServerContext, options: QueueProcessOptions) -> Iterator[None]:
    """Run a server for the block and kill it at its end."""
    process = context.Process(target=serve_queue, args=(options,))
    process.start()
    try:
        yield
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(timeout=TEST_TIMEOUT_SECONDS)


async def _wait_for_tokens(harness: QueueHarness, tokens: int) -> None:
    """Wait until this many more tokens are stored."""
    enough = _stored_tokens(harness) + tokens
    await wait_until(lambda: _stored_tokens(harness) >= enough)


def _stored_tokens(harness: QueueHarness) -> int:
    """Return the number of stored tokens of all answers."""
    with harness.database.read() as connection:
        return int(connection.execute(select(func.sum(jobs.c.completion_tokens))).scalar_one() or 0)


def _expire_leases(harness: QueueHarness) -> None:
    """Let the leases of all running jobs expire."""
    with harness.database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.state == "running").values(lease_until=0))
