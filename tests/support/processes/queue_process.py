"""A queue in a process of its own that tests can kill."""

import asyncio
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from dragoman.accounts.process.handle import LedgerProcessHandle
from dragoman.engines.echo import EchoEngine
from tests.support.jobs.queue_harness import running_queue


class QueueProcessOptions(NamedTuple):
    """Options of the process."""

    url: str
    journals: Path
    tokens_per_second: float


def serve_queue(options: QueueProcessOptions) -> None:
    """Run jobs until the process is killed. The entry point of the process."""
    asyncio.run(_serve(options))


async def _serve(options: QueueProcessOptions) -> None:
    engine = EchoEngine(tokens_per_second=options.tokens_per_second)
    async with running_queue(options.url, options.journals, engine, CollectorRegistry(), transport=LedgerProcessHandle):
        await asyncio.Event().wait()
