"""The seam between the gateway and whatever runs a model."""

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from dragoman.core.adapters import Adapter, AdapterSource
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


class AdapterFile(msgspec.Struct, frozen=True):
    """An adapter at hand, as its file describes it."""

    path: Path
    architecture: str
    """Of the models it can change, in llama.cpp's words."""
    bases: tuple[str, ...]
    """The models it was made for, by the names its makers gave them."""


class AdapterStore(Protocol):
    """Where adapters are found that clients ask for."""

    async def find(self, source: AdapterSource, token: str | None) -> AdapterFile:
        """The file, downloaded first if need be and allowed. Raises AdapterMissing or BadRequest."""
        ...


class AdapterHost(Protocol):
    """The adapters of one model."""

    @property
    def architecture(self) -> str:
        """What an adapter must be made for."""
        ...

    def list_adapters(self) -> Sequence[Adapter]:
        """All of them, oldest first, whichever process registered them."""
        ...

    async def add(self, adapter: Adapter, path: Path) -> Adapter:
        """Load it and serve it from now on; the same again changes nothing.

        Raises ModelNameTaken, BadRequest when it does not fit the model, Overloaded or EngineFailed.
        """
        ...

    async def remove(self, name: str) -> Adapter:
        """Serve it no longer; requests under way go on with it. Raises ModelNotFound, Overloaded or EngineFailed."""
        ...


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
    def adapters(self) -> AdapterHost | None:
        """None: this engine takes none."""
        ...

    @property
    def supports_reasoning(self) -> bool:
        """Whether the model may think before it answers."""
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

        One that was begun is told from its first token on, at once: the tokens of `request.begun` are not sampled
        again, but count as the answer's in usage, limits, penalties, seed, stop strings and grammar. A choice that is
        complete with them runs no more. Raises BadRequest naming `begun` when the request cannot have begun like that.

        Requests with a priority from QUEUED on yield to all others. Closing the generator early cancels the work within
        one step. Raises BadRequest, Overloaded or EngineFailed; after an error there are no further events.
        """
        ...

    async def statistics(self) -> EngineStatistics:
        """Ask the engine what it is doing. Raises EngineFailed when it cannot answer."""
        ...
