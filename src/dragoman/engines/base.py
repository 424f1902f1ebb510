"""The seam between the gateway and whatever runs a model."""

from collections.abc import AsyncGenerator
from typing import Protocol

import msgspec

from dragoman.core.events import Event
from dragoman.core.request import GenerationRequest, Prompt


class EngineStatistics(msgspec.Struct, frozen=True, array_like=True):
    """What the engine is doing at one moment."""

    running: int
    """Sequences that hold a slot."""
    waiting: int
    """Sequences that wait for one."""
    kv_cells_used: int
    """KV cells of running sequences."""
    kv_cells_cached: int
    """KV cells of finished sequences, kept for later requests and given up when needed."""
    kv_cells_total: int


class Engine(Protocol):
    """One loaded model. echo/ is the smallest complete implementation."""

    async def start(self) -> None:
        """Begin whatever runs beside requests; returns at once, `ready` tells when a request can be served."""
        ...

    async def close(self) -> None:
        """End everything that `start` began and fail what still runs."""
        ...

    @property
    def ready(self) -> bool:
        """Whether a request sent now would be served."""
        ...

    @property
    def context_length(self) -> int | None:
        """In tokens, prompt and answer together; None until the engine is known."""
        ...

    @property
    def fingerprint(self) -> str | None:
        """Changes exactly when answers may: with the weights, the chat template, the engine; None: not known yet."""
        ...

    async def count_tokens(self, prompt: Prompt) -> int:
        """The prompt tokens a request with this prompt has. Raises as `generate` does."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        """Answer one request with the events of core.events, in their order.

        Closing the generator early cancels the work within one step. Raises BadRequest, Overloaded or
        EngineFailed; after an error there are no further events.
        """
        ...

    async def statistics(self) -> EngineStatistics:
        """Ask the engine what it is doing. Raises EngineFailed when it cannot answer."""
        ...
