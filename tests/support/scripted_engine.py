"""An engine of a script."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from dragoman.core.capabilities import ALL_CAPABILITIES, Capability
from dragoman.core.errors import DragomanError
from dragoman.core.events import Event
from dragoman.core.request import GenerationRequest
from dragoman.engines.echo import EchoEngine

Script = Sequence[Event | DragomanError | asyncio.Event]


class ScriptedEngine(EchoEngine):
    """Ends each attempt as the next entry of its script says: with events, after an error, or with both.

    An asyncio.Event in a script is waited for.
    """

    def __init__(
        self,
        *script: Script,
        ready: bool = True,
        capabilities: frozenset[Capability] = ALL_CAPABILITIES,
    ) -> None:
        super().__init__()
        self.script = list(script)
        self.is_ready = ready
        self.capabilities = capabilities
        self.attempts = 0
        self.running = 0

    @property
    def ready(self) -> bool:
        return self.is_ready

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        self.attempts += 1
        self.running += 1
        try:
            for each in self.script.pop(0):
                match each:
                    case DragomanError():
                        raise each
                    case asyncio.Event():
                        await each.wait()
                    case event:
                        yield event
        finally:
            self.running -= 1
