"""An engine that breaks where a test wants it to, and remembers what it was asked."""

import asyncio
from collections.abc import AsyncGenerator
from typing import NamedTuple

from dragoman.core.errors import DragomanError
from dragoman.core.events import Event, Finished, Usage
from dragoman.core.request import GenerationRequest
from dragoman.engines.echo import EchoEngine


class FailurePoint(NamedTuple):
    """Where a run stops: after so many tokens it fails with the error, or without one waits for ever."""

    tokens: int
    error: DragomanError | None = None


class BreakingEcho(EchoEngine):
    """Each run breaks at the next of the breaks; after the last, none does. It tells answers again by running anew."""

    def __init__(self, *breaks: FailurePoint, fingerprint: str = "echo") -> None:
        super().__init__()
        self.fingerprint = fingerprint
        self.received_requests: list[GenerationRequest] = []
        self.waiting = asyncio.Event()
        """Set while a run waits."""
        self.cancelled = 0
        self._failure_points = list(breaks)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        self.received_requests.append(request)
        point = self._failure_points.pop(0) if self._failure_points else None
        generated = 0
        try:
            if point is not None and not point.tokens:
                await self._fail_at(point)
            async for event in super().generate(request):
                yield event
                generated += 0 if isinstance(event, Usage | Finished) else len(event.token_ids)
                if point is not None and generated == point.tokens:
                    await self._fail_at(point)
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled += 1
            raise

    async def _fail_at(self, point: FailurePoint) -> None:
        if point.error is not None:
            raise point.error
        self.waiting.set()
        await asyncio.Event().wait()
