"""A server with a queue in a process of its own, so that it can be killed."""

import asyncio
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from dragoman.accounts.child import LedgerProcess
from dragoman.engines.echo import EchoEngine
from tests.support.queues import running_queue


class QueueServer(NamedTuple):
    """What it serves."""

    url: str
    journals: Path
    tokens_per_second: float


def serve_queue(order: QueueServer) -> None:
    """Run jobs until the process is killed."""
    asyncio.run(_serve(order))


async def _serve(order: QueueServer) -> None:
    engine = EchoEngine(tokens_per_second=order.tokens_per_second)
    async with running_queue(order.url, order.journals, engine, CollectorRegistry(), transport=LedgerProcess):
        await asyncio.Event().wait()
