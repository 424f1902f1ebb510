"""A server that keeps jobs, in this process, and what its clients need to know."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from dragoman.core.identifiers import key_digest
from dragoman.dialects.door import ExchangeOptions
from dragoman.engines.base import Engine
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.catalog import Catalog, Deployment
from dragoman.gateway.keys import KeyRing
from dragoman.gateway.meter import Meter
from dragoman.server.app import App
from dragoman.server.settings import DialectName
from tests.support.memory_queue import MemoryQueue

SECRET, OTHER_SECRET = "sk-0123456789abcdef", "sk-fedcba9876543210"
ASYNC = {"prefer": "respond-async"}
STREAM = {"accept": "text/event-stream"}


class QueueingApp(App):
    queue: MemoryQueue

    def job_ids(self) -> list[str]:
        return [kept.id for kept in self.queue.jobs]


@contextlib.asynccontextmanager
async def queueing_app(
    engine: Engine | None = None,
    *,
    keep_alive_seconds: float = 15,
    hosts: dict[str, DialectName] | None = None,
) -> AsyncIterator["QueueingApp"]:
    """The app over one deployment, `echo`; both secrets open it."""
    registry = CollectorRegistry()
    catalog = Catalog([Deployment("echo", ("acme/parrot",), engine or EchoEngine())])
    keys = KeyRing(map(key_digest, [SECRET, OTHER_SECRET]))
    queue = MemoryQueue(catalog, Meter(registry), keys)
    options = ExchangeOptions(100_000, keep_alive_seconds)
    app = QueueingApp(catalog, queue, contextlib.nullcontext, registry, options, None, hosts or {})
    app.queue = queue
    yield app


async def ended(client: httpx.AsyncClient, url: str) -> Any:
    """What is told of a job when it has ended."""
    async with asyncio.timeout(10):
        await client.get(url, headers=STREAM)
    return (await client.get(url)).json()


def without_ids(text: str) -> str:
    """A stream without its ids, which must count from one."""
    lines = text.split("\n")
    ids = [line for line in lines if line.startswith("id: ")]
    assert ids == [f"id: {number + 1}" for number in range(len(ids))]
    return "\n".join(line for line in lines if not line.startswith("id: "))
