"""An engine that fails where a test wants it to, and records its requests."""

import asyncio
from collections.abc import AsyncGenerator
from typing import NamedTuple

from dragoman.core.errors import DragomanError
from dragoman.core.events import Event, Finished, Usage
from dragoman.core.request import GenerationRequest
from dragoman.engines.echo import EchoEngine


class FailurePoint(NamedTuple):
    """Fails with the error after this many tokens, or waits for ever if there is no error."""

    tokens: int
    error: DragomanError | None = None


class BreakingEcho(EchoEngine):
    """Fails each run at the next failure point; runs after the last point succeed."""

    def __init__(self, *failure_points: FailurePoint, fingerprint: str = "echo") -> None:
        super().__init__()
        self.fingerprint = fingerprint
        self.received_requests: list[GenerationRequest] = []
        self.waiting = asyncio.Event()
        """Set while a run waits."""
        self.cancelled = 0
        self._failure_points = list(failure_points)

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
