"""The interface between the gateway and the engines that run models."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import msgspec

from dragoman.core.adapters import Adapter, AdapterSource
from dragoman.core.capabilities import Capability
from dragoman.core.embedding import EmbeddingRequest, ModelKind
from dragoman.core.events import Event
from dragoman.core.models import TokenizedPrompt
from dragoman.core.request import GenerationRequest, Prompt


class EngineStatistics(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The load of an engine at one moment."""

    running: int
    """Sequences that hold a slot."""
    waiting: int
    """Sequences that wait for one."""
    kv_cells_used: int
    """KV cells of running sequences."""
    kv_cells_cached: int
    """KV cells of finished sequences, cached for later requests and evicted when needed."""
    kv_cells_total: int
    drafted_tokens: int = 0
    """Tokens that were drafted (speculative decoding) since the engine started."""
    accepted_draft_tokens: int = 0
    """Those of them that the model generated, too."""
    resident_bytes: int = 0
    """Memory of its process, with the pages of the model's file that are in memory. 0: not known, or another server's
    engine."""
    saved_prefix_hits: int = 0
    """Requests for which prefixes were read from the disk since the engine started."""
    saved_prefix_tokens: int = 0
    """Tokens that these requests needed not compute."""
    saved_prefix_evictions: int = 0
    """Files of prefixes that were deleted for others since the engine started."""
    saved_prefix_bytes: int = 0
    """Of all files of prefixes in the folder."""


class AdapterFile(msgspec.Struct, frozen=True):
    """An adapter on this machine, as its file describes it."""

    path: Path
    architecture: str
    """llama.cpp's name of the architecture of the models it can change."""
    bases: tuple[str, ...]
    """Names of the models it was made for, as its makers wrote them."""


class AdapterStore(Protocol):
    """Finds the adapters that clients ask for."""

    def registering(self, owner: str) -> AbstractAsyncContextManager[None]:
        """Hold the owner's downloads from before its registered adapters are listed until the new one is registered.

        Otherwise a download would be deleted for the next one. Raises Overloaded.
        """
        ...

    async def find(
        self, source: AdapterSource, token: str | None, *, owner: str = "", registered: Collection[AdapterSource] = ()
    ) -> AdapterFile:
        """Return the file, and download it first if necessary and allowed.

        An owner's downloads are its own, and are kept as long as their sources are `registered`: those of the owner's
        adapters. Raises AdapterMissing or BadRequest.
        """
        ...


class AdapterHost(Protocol):
    """The adapters of one model."""

    @property
    def architecture(self) -> str:
        """The architecture an adapter must have."""
        ...

    def list_adapters(self) -> Sequence[Adapter]:
        """Return all adapters, oldest first, whichever process registered them."""
        ...

    async def add(self, adapter: Adapter, path: Path) -> Adapter:
        """Load an adapter and serve it from now on. Adding the same one of the same owner again changes nothing.

        Raises ModelNameTaken, BadRequest if the model cannot use it or the owner has too many, Overloaded or
        EngineFailed.
        """
        ...

    async def remove(self, name: str) -> Adapter:
        """Stop serving the adapter with this qualified name. Running requests keep it.

        Raises ModelNotFound, Overloaded or EngineFailed.
        """
        ...


class Engine(Protocol):
    """One loaded model. echo/ is the smallest complete implementation."""

    async def start(self) -> None:
        """Start the background work. Returns immediately; `ready` becomes true when requests can be served."""
        ...

    async def close(self) -> None:
        """Stop the background work and fail the running requests."""
        ...

    @property
    def ready(self) -> bool:
        """Whether a request would be served now."""
        ...

    @property
    def failure(self) -> str | None:
        """Why the model cannot be loaded, for the operator. None: it can, or that is not known."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it can do. The gateway refuses requests that need anything else."""
        ...

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and answer together; None until the engine has reported it."""
        ...

    @property
    def adapters(self) -> AdapterHost | None:
        """None: this engine does not support adapters."""
        ...

    @property
    def supports_reasoning(self) -> bool:
        """Whether the model may reason before it answers."""
        ...

    @property
    def tool_format(self) -> str | None:
        """The name of the markup in which the model calls tools. None until the engine has reported it."""
        ...

    @property
    def fingerprint(self) -> str | None:
        """Changes exactly when answers may: with weights, chat template or engine. None: not known yet."""
        ...

    async def count_tokens(self, prompt: Prompt) -> int:
        """Count the prompt tokens of a request with this prompt. Raises as `generate` does.

        An estimate, and rather too many than too few, without the capability exact_token_counts.
        """
        ...

    async def tokenize(self, prompt: Prompt) -> TokenizedPrompt:
        """Return the prompt tokens of a request with this prompt. Raises as `generate` does."""
        ...

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of these tokens, special ones included. Raises BadRequest naming `tokens`."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        """Answer one request with the events of core.events, in their order.

        A resumed request has an earlier attempt's tokens in `request.resume_token_ids`. Their events are sent first and
        without delay. They are not sampled again, but count in usage, limits, penalties, seed, stop strings and
        grammar. A choice that is complete with them generates nothing. Raises BadRequest naming `resume_token_ids` if
        the request cannot have generated these tokens.

        Requests with a priority from QUEUED_PRIORITY_OFFSET on yield to all others. Closing the generator early cancels
        the work within one step. Raises BadRequest, Overloaded or EngineFailed; after an error there are no further
        events. ReplicaFailed, which is an EngineFailed, says that there were none before it and another engine may
        answer.
        """
        ...

    async def statistics(self) -> EngineStatistics:
        """Return the engine's current load. Raises EngineFailed if the engine does not answer."""
        ...


class ProbeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the last probe of another server has found."""

    is_well: bool
    problem: str
    """Why it is not well, for the operator. Empty: it is."""
    at: float
    """Seconds of time.monotonic."""
    kind: str | None
    """What it is, such as vllm. None: not known yet."""
    models: tuple[str, ...]
    """What it serves, as it was listed last."""


class Probed(ABC):
    """What an engine has besides that is another server, whose health is probed."""

    last_probe: ProbeReport | None = None
    """None: it was not probed yet."""

    @abstractmethod
    async def probe(self) -> None:
        """Ask for the health now, besides the regular probes, and report it as `last_probe`."""


class Embeds(ABC):
    """What an engine has besides, whose model computes embeddings or scores and generates nothing."""

    model_kind: ModelKind
    """What the model is for."""

    @property
    @abstractmethod
    def embedding_dimensions(self) -> int | None:
        """The values of a whole vector. None until the engine has reported it, and for a reranker."""

    @abstractmethod
    async def count_input_tokens(self, request: EmbeddingRequest) -> int:
        """Count the tokens of all inputs, as `Usage` will report them. Raises as `embed` does."""

    @abstractmethod
    def embed(self, request: EmbeddingRequest) -> AsyncGenerator[Event]:
        """Compute all inputs: one `Embedding` for each, in their order, then `Usage`.

        Nothing is sent before all is computed. Requests with a priority from QUEUED_PRIORITY_OFFSET on yield to all
        others. Raises BadRequest naming an input, Overloaded or EngineFailed, and ReplicaFailed as `Engine.generate`
        does.
        """
