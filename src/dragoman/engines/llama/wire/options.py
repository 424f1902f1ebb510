"""The options of an engine process, and how long its clients wait for it."""

from typing import NamedTuple

import msgspec

from dragoman.core.embedding import ModelKind
from dragoman.output.markup import ToolFormatName


class SavedPrefixOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where and for whom prefixes are saved on disk."""

    folder: str
    max_bytes: int
    """Of all files in the folder."""
    owners: dict[str, str] = {}
    """Owner of requests → a name of it that no other owner gets. The prefixes of owners without one are not saved."""
    accounts: str = ""
    """Distinguishes the accounts of this server's database from those of others, which have the same numbers."""


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Passed as JSON in the argument of the process."""

    model_path: str
    socket_path: str
    kv_cache_tokens: int
    kv_cache_partitions: int
    """The most partitions of the KV cells, where there may be several."""
    max_sequences: int
    """The most sequences that run together."""
    threads: int
    max_batched_tokens: int
    """The most tokens of a prefill step."""
    max_draft_tokens: int
    """The most tokens that are drafted for a sequence in a decode step. 0: none."""
    host_cache_tokens: int
    """The most tokens of finished sequences whose cells are kept in host memory."""
    max_waiting: int
    """The most requests that wait for a slot."""
    max_adapters: int
    """The most LoRA adapters that are loaded at the same time."""
    step_timeout_seconds: float = 300.0
    """The process sends no heartbeats while a step takes longer than this."""
    max_adapters_per_owner: int | None = None
    """The most of them that one client may have registered. None means no limit of its own."""
    unload_idle_seconds: float | None = None
    """Without requests for this time the process ends with status 0. None means never."""
    mmproj_path: str | None = None
    """The projector file of a model that takes images. None: it takes none."""
    reproducible: bool = False
    library: str | None = None
    """The name of a packaged build or the path of another one. None means the fastest for the model."""
    chat_template: str | None = None
    """None means the one in the model file."""
    tool_format: ToolFormatName | None = None
    """None means the one that the chat template shows."""
    shared_prefixes: tuple[str, ...] = ()
    """Texts at the beginning of prompts whose cells all owners share."""
    saved_prefixes: SavedPrefixOptions | None = None
    """None: none are saved."""
    kind: ModelKind = "generation"
    dimensions: tuple[int, ...] = ()
    """The lengths to which the vectors of a model for embeddings may be cut."""


def max_batch_tokens(max_sequences: int, max_batched_tokens: int) -> int:
    """Return the most tokens of one step: all sequences decode, or prefill computes `max_batched_tokens`."""
    return max(max_batched_tokens, max_sequences)


class ImageLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the images of a request may have."""

    max_count: int
    max_bytes: int
    """Of one image, as its file."""
    max_pixels: int
    """Of one image."""


class EngineTimeouts(NamedTuple):
    """How long a worker waits for an engine process, in seconds. The settings describe them."""

    heartbeat: float = 20.0
    event: float = 600.0
    reply: float = 60.0
    ready: float = 3.0


DEFAULT_TIMEOUTS = EngineTimeouts()
