"""An engine whose events and failure a test gives."""

from collections.abc import AsyncGenerator, Sequence

from dragoman.core.errors import DragomanError, EngineFailed
from dragoman.core.events import Delta, Event
from dragoman.core.request import GenerationRequest
from dragoman.engines.echo import EchoEngine


class ScriptedEngine(EchoEngine):
    """Sends the given events in answer to every request, then raises the error, if there is one."""

    def __init__(self, events: Sequence[Event], error: DragomanError | None = None) -> None:
        super().__init__()
        self._events = events
        self._error = error

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        for event in self._events:
            yield event
        if self._error is not None:
            raise self._error


def failing_engine(deltas: int) -> ScriptedEngine:
    """Return an engine that fails after this many deltas, with a message that no client may see."""
    return ScriptedEngine([Delta(0, "x", [index]) for index in range(deltas)], EngineFailed("secret"))
