"""Engines that repeat, for pages that show more than a text."""

from collections.abc import AsyncGenerator

import msgspec

from dragoman.core.events import Event, ReasoningDelta, Usage
from dragoman.core.request import GenerationRequest
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


class SlowEcho(EchoEngine):
    """Repeats forty tokens a second, so that a person can watch and stop it."""

    def __init__(self) -> None:
        super().__init__(tokens_per_second=40)
