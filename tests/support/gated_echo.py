"""An engine that tests can pause and let fail, and that counts its runs."""

import asyncio
from collections.abc import AsyncGenerator

from dragoman.core.errors import DragomanError
from dragoman.core.events import Event
from dragoman.core.request import GenerationRequest
from dragoman.engines.echo import EchoEngine


class GatedEcho(EchoEngine):
    """Sends the first token without waiting, unless it is withheld, and the rest when the gate is open."""

    def __init__(self, *failures: DragomanError, withhold_first_token: bool = False) -> None:
        """Let the first runs fail with these errors: after the first token, or before it if it is withheld."""
        super().__init__()
        self._withholds_first_token = withhold_first_token
        self.gate = asyncio.Event()
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
                self.generation_started.set()
                if failure is not None:
                    raise failure
                await self.gate.wait()
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled += 1
            raise
