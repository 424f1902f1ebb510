"""A deployment of upstreams with a router whose clock the test moves."""

import asyncio
import contextlib
import random

from dragoman.core.errors import DragomanError
from dragoman.core.events import Delta, Event, Finished, Started, Usage
from dragoman.core.request import GenerationRequest, TextPrompt
from dragoman.engines.base import Engine
from dragoman.gateway.execution.request_execution import generate
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.gateway.routing.router import Router
from dragoman.gateway.routing.router_options import PolicyName, RouterOptions
from tests.support.manual_clock import ManualClock
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

REQUEST = GenerationRequest(model="m", prompt=TextPrompt("a"))
ANSWER: list[Event] = [Started(1, 0), Delta(0, "b", [98]), Finished(0, "stop"), Usage(1, 1, 0)]


class Routed:
    """A deployment of upstreams with a router whose clock the test moves."""

    def __init__(
        self,
        *engines: Engine,
        policy: PolicyName = "first",
        wait_seconds: float = TEST_TIMEOUT_SECONDS,
        concurrency: int | None = None,
        max_attempts: int = 3,
        cache_tokens: int | None = None,
        max_waiting: int = 100,
    ) -> None:
        self.clock = ManualClock()
        options = RouterOptions(policy=policy, wait_seconds=wait_seconds, max_waiting=max_waiting)
        self.router = Router(options, clock=self.clock, source=random.Random(1))
        replicas = tuple(
            Replica(f"r{number}", engine, is_upstream=True, concurrency=concurrency, cache_tokens=cache_tokens)
            for number, engine in enumerate(engines)
        )
        for replica in replicas:
            self.router.add(replica, is_new=False)
        self.deployment = Deployment(name="m", replicas=replicas, max_attempts=max_attempts, router=self.router)

    async def answer(self, request: GenerationRequest = REQUEST) -> list[Event]:
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            return [event async for event in generate(self.deployment, request)]

    async def fail(self, times: int) -> None:
        for _ in range(times):
            with contextlib.suppress(DragomanError):
                await self.answer()

    def in_flight(self) -> list[tuple[int, int]]:
        return [self.router.leases.in_flight(replica.name) for replica in self.deployment.replicas]


async def turns() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)
