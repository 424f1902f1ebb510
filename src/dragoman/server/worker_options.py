"""Options that the parent passes to a worker process, in its environment. Without imports that only a worker needs."""

import msgspec

from dragoman.core.embedding import ModelKind
from dragoman.dialects.registry import DialectName
from dragoman.engines.llama.wire.options import ImageLimits
from dragoman.gateway.routing.router_options import RouterOptions
from dragoman.output.markup import ToolFormatName
from dragoman.server.settings import EchoSettings, Settings
from dragoman.server.upstream_settings import UpstreamSettings


class EchoOptions(msgspec.Struct, frozen=True, kw_only=True, tag="echo"):
    """An echo engine, which runs inside the worker."""

    echo: EchoSettings
    tool_format: ToolFormatName | None = None
    """None: its default."""


class LlamaOptions(msgspec.Struct, frozen=True, kw_only=True, tag="llama"):
    """An engine process, as a worker reaches it."""

    socket: str
    wake_number: int | None
    """Requests the start of the process, which may be absent. None: it always runs."""
    architecture: str | None
    """The architecture that the model's adapters need. None: it takes no adapters."""
    event_timeout_seconds: float
    reply_timeout_seconds: float
    cache_tokens: int | None = None
    """Tokens of prefixes that its caches hold at most. None: not known."""
    kind: ModelKind = "generation"
    """What the model is for."""
    images: ImageLimits | None = None
    """What the images of a request may have. None: the model takes no images."""


class UpstreamOptions(msgspec.Struct, frozen=True, kw_only=True, tag="upstream"):
    """Another server, as a worker reaches it."""

    upstream: UpstreamSettings
    model: str
    kind: ModelKind = "generation"
    """What the model is for."""


ReplicaOptions = EchoOptions | LlamaOptions | UpstreamOptions


RETIRE_LINE = b"retire\n"
"""On a worker's standard input: accept nothing any more, and end when the open connections have ended."""


class DeploymentOptions(msgspec.Struct, frozen=True, kw_only=True):
    """One model, as a worker serves it."""

    name: str
    aliases: tuple[str, ...]
    dialects: tuple[DialectName, ...] | None
    engines: tuple[ReplicaOptions, ...]
    """One for each replica."""
    routing: RouterOptions = RouterOptions()
    attempts: int = 3
    fallbacks: tuple[str, ...] = ()
    context_fallbacks: tuple[str, ...] = ()


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The process's options."""

    settings: Settings
    """Without keys, database and webhook secret: what is not needed is not passed on."""
    setting_origins: dict[str, str] = {}
    """Keys of settings → where they were set at the start, for the console."""
    key_labels: dict[str, str]
    """Digests of the settings' keys → their names."""
    key_groups: dict[str, str]
    """Digests of those that have a group → the group."""
    key_numbers: dict[str, int] | None = None
    """Digests of the settings' keys → numbers that no other key has or had. None: those of their order."""
    generation: int = 1
    """Counts the reloads of the settings, from 1 for those of the start."""
    admin_labels: dict[str, str]
    """Digests of the admin API's keys → their names."""
    listening_fd: int
    metrics_directory: str
    deployments: tuple[DeploymentOptions, ...]
    wake_fd: int
    """Pipe to the parent: the number of an engine, written as one byte, requests that it is started."""
    journal_dir: str | None
    """Directory of the journals. None: nothing is recorded. The database is in the environment."""
    requires_account_key: bool
    """Whether requests need the key of an account. Otherwise their usage is only recorded."""
