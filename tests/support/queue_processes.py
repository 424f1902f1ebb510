"""A server with a queue in a process of its own, so that it can be killed."""

import asyncio
from pathlib import Path
from typing import NamedTuple

from dragoman.accounts.database import Database
from dragoman.engines.echo import EchoEngine
from tests.support.queues import Shop, server


class QueueServer(NamedTuple):
    """What it serves."""

    url: str
    journals: Path
    tokens_per_second: float


def serve_queue(order: QueueServer) -> None:
    """Run jobs until the process is killed."""
    asyncio.run(_serve(order))


async def _serve(order: QueueServer) -> None:
    shop = Shop(Database(order.url), opens=False)
    async with server(shop, order.journals, engine=EchoEngine(tokens_per_second=order.tokens_per_second)):
        await asyncio.Event().wait()
