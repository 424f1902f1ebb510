"""Engines that repeat, for pages that show more than a text."""

import time
from collections.abc import AsyncGenerator

import msgspec

from dragoman.core.errors import ReplicaFailed
from dragoman.core.events import Event, ReasoningDelta, Started, Usage
from dragoman.core.request import GenerationRequest
from dragoman.engines.base import Probed, ProbeReport
from dragoman.engines.echo import EchoEngine

THOUGHTS = "I should repeat <b>this</b>."


class ThinkingEcho(EchoEngine):
    """Reasons before it repeats."""

    supports_reasoning = True

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        yield ReasoningDelta(0, THOUGHTS, [0] * len(THOUGHTS))
        async for event in super().generate(request):
            if isinstance(event, Usage):
                tokens = event.completion_tokens + len(THOUGHTS)
                event = msgspec.structs.replace(event, completion_tokens=tokens, reasoning_tokens=len(THOUGHTS))
            yield event


class ProbedEcho(EchoEngine, Probed):
    """Repeats, and is another server whose models have these names."""

    probes = 0

    def __init__(self, *models: str) -> None:
        super().__init__()
        self._models = models
        self.last_probe = self._report()

    async def probe(self) -> None:
        self.probes += 1
        self.last_probe = self._report()

    def _report(self) -> ProbeReport:
        return ProbeReport(is_well=True, problem="", at=time.monotonic(), kind="vllm", models=self._models)


class RefusingEngine(EchoEngine, Probed):
    """Cannot be reached."""

    probes = 0

    def __init__(self, problem: str) -> None:
        super().__init__()
        self._problem = problem
        self.last_probe = self._report()

    async def probe(self) -> None:
        self.probes += 1
        self.last_probe = self._report()

    def _report(self) -> ProbeReport:
        return ProbeReport(is_well=False, problem=self._problem, at=time.monotonic(), kind=None, models=())

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        if request.n:
            raise ReplicaFailed("The upstream cannot be reached", "refused")
        yield Started(0, 0)


class SlowEcho(EchoEngine):
    """Repeats forty tokens a second, so that a person can watch and stop it."""

    def __init__(self) -> None:
        super().__init__(tokens_per_second=40)
