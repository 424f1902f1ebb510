"""Processes that are killed while they run jobs: no job is lost, none is stuck, each is paid once."""

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

from dragoman.accounts.tables import jobs
from dragoman.engines.echo import EchoEngine
from dragoman.jobs.options import QueueOptions
from tests.support.metered import cost
from tests.support.patience import PATIENCE_SECONDS
from tests.support.queue_processes import QueueServer, serve_queue
from tests.support.queues import Shop, said, server, until

KILLS = 4
JOBS = 60
SPEED = 60.0
"""Tokens a second: an answer takes half a second."""


def test_jobs_outlive_the_processes_that_run_them(shop: Shop, database_url: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.queue_processes"])
    order = QueueServer(database_url, tmp_path / "journals", SPEED)
    asyncio.run(_run(shop, order, context))
    shop.assert_settled()


async def _run(shop: Shop, order: QueueServer, context: ForkServerContext) -> None:
    chance = random.Random(6)
    texts = [f"job {number}: " + "x" * chance.randint(0, 30) for number in range(JOBS)]
    engine = EchoEngine(tokens_per_second=SPEED)
    async with server(shop, order.journals, options=QueueOptions(concurrency=0)) as front:
        submitted = [await front.submit(text) for text in texts]
        for _ in range(KILLS):
            with _killed(context, order):
                await _progress(shop, chance.randint(50, 300))
            _end_leases(shop)
        async with server(shop, order.journals, engine=engine):
            answers = await asyncio.gather(*(front.read(job.id) for job in submitted))
    assert [said(events) for events in answers] == texts
    charged = {used.request_id: (used.result, used.charge) for used in shop.usage}
    assert len(shop.usage) == JOBS
    assert charged == {
        job.form.answer_id: ("finished", cost(len(text), len(text) + 1))
        for job, text in zip(submitted, texts, strict=True)
    }


@contextlib.contextmanager
def _killed(context: ForkServerContext, order: QueueServer) -> Iterator[None]:
    """A server until the end of the block, which kills it."""
    process = context.Process(target=serve_queue, args=(order,))
    process.start()
    try:
        yield
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(timeout=PATIENCE_SECONDS)


async def _progress(shop: Shop, tokens: int) -> None:
    """Return when so many more are stored."""
    enough = _tokens(shop) + tokens
    await until(lambda: _tokens(shop) >= enough)


def _tokens(shop: Shop) -> int:
    """Stored of all answers together."""
    with shop.database.read() as connection:
        return int(connection.execute(select(func.sum(jobs.c.completion_tokens))).scalar_one() or 0)


def _end_leases(shop: Shop) -> None:
    """What time does."""
    with shop.database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.state == "running").values(lease_until=0))
