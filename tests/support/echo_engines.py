"""Echo engines for tests: one that can be paused, one that fails, one that has adapters."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from dragoman.core.adapters import Adapter
from dragoman.core.errors import BadRequest, DragomanError, ModelNameTaken, ModelNotFound
from dragoman.core.events import AnyDelta, Event, Started
from dragoman.core.request import GenerationRequest
from dragoman.engines.echo import EchoEngine

INCOMPATIBLE_FILE = "unfit.gguf"
"""A file that no model can use."""


class GatedEcho(EchoEngine):
    """Sends the first token without waiting, unless it is withheld, and the rest when the gate is open."""

    def __init__(self, *failures: DragomanError, withhold_first_token: bool = False, is_open: bool = True) -> None:
        """Let the first runs fail with these errors: after the first token, or before it if it is withheld."""
        super().__init__()
        self._withholds_first_token = withhold_first_token
        self.gate = asyncio.Event()
        if is_open:
            self.gate.set()
        self.generation_started = asyncio.Event()
        self.runs = 0
        self.cancelled = 0
        self._failures = list(failures)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        self.runs += 1
        failure = self._failures.pop(0) if self._failures else None
        try:
            if self._withholds_first_token:
                self.generation_started.set()
                await self.gate.wait()
                if failure is not None:
                    raise failure
            async for event in super().generate(request):
                yield event
                if isinstance(event, Started):
                    continue
                self.generation_started.set()
                if failure is not None:
                    raise failure
                await self.gate.wait()
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled += 1
            raise


class FailurePoint(NamedTuple):
    """Fails with the error after this many tokens, or waits for ever if there is no error."""

    tokens: int
    error: DragomanError | None = None


class BreakingEcho(EchoEngine):
    """Fails each run at the next failure point; runs after the last point succeed."""

    def __init__(self, *failure_points: FailurePoint, fingerprint: str | None = "echo") -> None:
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
                generated += len(event.token_ids) if isinstance(event, AnyDelta) else 0
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


class InMemoryAdapterHost:
    """Implements engines.base.AdapterHost in memory."""

    def __init__(self, architecture: str = "llama") -> None:
        self.architecture = architecture
        self.by_name: dict[str, Adapter] = {}
        """By their qualified names."""

    def list_adapters(self) -> Sequence[Adapter]:
        return list(self.by_name.values())

    async def add(self, adapter: Adapter, path: Path) -> Adapter:
        if path.name == INCOMPATIBLE_FILE:
            raise BadRequest(f"{path.name} cannot be used as an adapter: it has another shape", "model_name")
        if (existing := self.by_name.get(adapter.qualified_name)) is not None:
            if existing.source != adapter.source:
                raise ModelNameTaken(adapter.name)
            return existing
        self.by_name[adapter.qualified_name] = msgspec.structs.replace(adapter, digest=f"digest of {path.name}")
        return self.by_name[adapter.qualified_name]

    async def remove(self, name: str) -> Adapter:
        if name not in self.by_name:
            raise ModelNotFound(name)
        return self.by_name.pop(name)


class AdaptableEcho(EchoEngine):
    """Records the adapter of each request."""

    def __init__(self, architecture: str = "llama") -> None:
        super().__init__()
        self.adapters = self.adapter_host = InMemoryAdapterHost(architecture)
        self.requested_adapters: list[str | None] = []

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        self.requested_adapters.append(request.adapter)
        async for event in super().generate(request):
            yield event
