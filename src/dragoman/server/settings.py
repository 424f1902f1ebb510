"""The settings: frozen structs, the only place that knows a setting.

A setting's key in the file, its DRAGOMAN_ variable, its flag, the check of its value, the message about a wrong one and
its row in docs/configuration.md all follow from the field, its type and the docstring below it. settings_loading.py
fills the structs.
"""

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from dragoman.core.context import key_digest
from dragoman.core.embedding import ModelKind
from dragoman.dialects.registry import DialectName
from dragoman.output.markup import ToolFormatName
from dragoman.server.console_settings import ConsoleSettings
from dragoman.server.image_settings import ImageSettings
from dragoman.server.response_options import ResponsesSettings
from dragoman.server.secret_settings import LongSecret, SecretSetting
from dragoman.server.upstream_settings import RoutingPolicy, UpstreamSettings

DEFAULT_DATABASE = "sqlite"
"""The value of `accounts.database` that stands for the file accounts.db in the user's data directory."""

MAX_COUNT = 2**31 - 1
"""llama.cpp counts cells and tokens in signed 32-bit integers."""

Text: TypeAlias = Annotated[str, Meta(min_length=1)]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_COUNT)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0)]
PositiveSeconds: TypeAlias = Annotated[float, Meta(gt=0)]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
LogFormat: TypeAlias = Literal["text", "json"]
LoadPolicy: TypeAlias = Literal["eager", "lazy"]


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The embedded engine. Each deployment has an engine of its own with these settings, unless it sets others."""

    kv_cache_tokens: Annotated[int, Meta(ge=256, le=MAX_COUNT)] = 16384
    """Tokens that all running sequences together may hold in the KV cache. One cell holds one token."""
    kv_cache_partitions: Annotated[int, Meta(ge=1, le=16)] = 4
    """Parts of the KV cache at most, each with room for `kv_cache_tokens`, so that a token passes over fewer cells of
    other requests. Used by ik_llama.cpp only; memory is taken for what is in use. 1: one cache."""
    max_sequences: Annotated[int, Meta(ge=1, le=128)] = 16
    """Sequences that decode in one batch."""
    threads: Annotated[int, Meta(ge=1, le=512)] | None = None
    """Threads that compute. Not set: one for each core."""  # ggml supports 512.
    max_batched_tokens: Annotated[int, Meta(ge=16, le=MAX_COUNT)] = 512
    """Tokens that one step computes at most."""
    speculation: Literal["auto", "off"] = "auto"
    """`auto`: draft tokens from earlier ones and compute them in the same step, where that is faster. `off`: never."""
    max_draft_tokens: Annotated[int, Meta(ge=1, le=62)] = 15
    """Tokens that are drafted for a sequence in one step at most."""
    host_cache_tokens: Annotated[int, Meta(ge=0, le=MAX_COUNT)] | None = None
    """Tokens of finished requests kept in main memory, for later requests with the same prefix. Not set: as many as
    `kv_cache_tokens`."""
    max_saved_prefix_bytes: Annotated[int, Meta(ge=0)] = 0
    """Size of all prefixes of finished requests kept on disk, to be found again after a restart. They are what clients
    sent, so that none is kept without this setting. 0: none."""
    saved_prefix_dir: Text | None = None
    """Directory of the prefixes on disk, which no other user can read. Not set: `prefixes` in the user's data
    directory."""
    step_timeout_seconds: PositiveSeconds = 300.0
    """Time that one step may take. Beyond it, the engine is taken for hung and replaced. A long prompt takes several
    steps, of `max_batched_tokens` each."""
    event_timeout_seconds: PositiveSeconds = 600.0
    """Time that a request waits for its first token, or for the next one, before it fails. It does not apply to queued
    jobs, which wait for all other requests."""
    reply_timeout_seconds: PositiveSeconds = 60.0
    """Time that an engine has to count tokens or to change an adapter."""
    mmproj: Text | None = None
    """Path of the projector file (mmproj) of a model that takes images. Not set: it takes text only."""
    reproducible: bool = False
    """Generate the same tokens for a seed, independent of other requests in the batch."""
    embeddings: bool = False
    """Serve a model for generation as one for embeddings, by the vector of the last token. Models whose file says that
    they are for embeddings or reranking need no setting."""
    requantize: Literal["auto", "never"] = "auto"
    """`auto`: for a model in a quantisation that the packaged libraries are slow with, serve a copy in a faster one,
    made once. `never`: serve every file as it is."""
    llama_library: Text | None = None
    """`llama.cpp`, `ik_llama.cpp` or the path of another build of llama.cpp's shared library. Not set: `ik_llama.cpp`
    for models that it computes faster and correctly, `llama.cpp` for all others."""


class EchoSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The echo engine, which needs no model."""

    tokens_per_second: Annotated[float, Meta(ge=0)] = 0
    """Tokens that each request gets in a second. 0: as many as possible."""
    context_length: Count = 8192
    """Tokens of prompt and completion together."""


class AccountsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prepaid accounts. The table alone, without `database`, means `database = "sqlite"`."""

    database: Text | None = None
    """`postgresql://user@host/name`, `sqlite:////absolute/path`, or `sqlite` for a file in the user's data directory.
    Not set: there are no accounts."""
    journal_dir: Text | None = None
    """Directory on a local disk for the journals of running requests. Not set: beside SQLite's file, or in the user's
    data directory."""
    max_hold_tokens: Count | None = None
    """Completion tokens whose price is put on hold for a request at most. Not set: as many as the request may
    generate."""
    timeout_seconds: PositiveSeconds = 5.0
    """Time that a request waits for its admission before it is refused."""
    max_stored_response_bytes: Annotated[int, Meta(ge=0)] = 1024 * 1024 * 1024
    """Size of all responses stored for an `Idempotency-Key`. Above it, the accounts with the most stored lose their
    oldest."""


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of client connections. Each worker applies them to its own."""

    max_head_bytes: Annotated[int, Meta(ge=1024, le=MAX_COUNT)] = 64 * 1024
    """Size of a request's line and headers together, and of a chunked body's trailers. Beyond it: status 431."""
    max_url_bytes: Annotated[int, Meta(ge=256, le=MAX_COUNT)] = 16 * 1024
    """Size of a request's URL. Beyond it: status 414."""
    max_headers: Annotated[int, Meta(ge=8, le=MAX_COUNT)] = 128
    """Header fields of a request. Beyond it: status 431."""
    head_timeout_seconds: PositiveSeconds = 20.0
    """Time from the connection, or from the first byte of a later request, to the end of its headers."""
    body_timeout_seconds: PositiveSeconds = 30.0
    """Time that a body may pause. Beyond it, it must arrive with 1,000 bytes a second on average."""
    keep_alive_seconds: Count = 75
    """Time that an idle connection stays open for the next request."""
    max_connections: Count = 4096
    """Open connections of one worker. Fewer if the process may not open so many files."""
    max_connections_per_address: Count = 1024
    """Open connections of one worker from one client address, of IPv6 from one /64. It does not apply to
    `trusted_proxies`."""


class SupervisionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How processes that hang or cannot start are found and replaced."""

    heartbeat_timeout_seconds: Annotated[float, Meta(ge=3)] = 20.0
    """Time without a heartbeat after which an engine, a worker or a ledger process is killed and replaced. They send
    one every second."""
    max_retry_seconds: Annotated[float, Meta(ge=1)] = 300.0
    """Longest pause between two attempts to load a model that cannot be loaded. It begins with a second and doubles."""
    ready_timeout_seconds: PositiveSeconds = 2.0
    """Time that each part of the server has to answer `/ready`."""


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The durable queue. It needs a database: `[accounts]` or `record_usage`."""

    priority_aging_seconds: PositiveSeconds = 60.0
    """Time in which a waiting job gains one step of priority."""
    max_attempts: Annotated[int, Meta(ge=1, le=MAX_COUNT)] = 3
    """Attempts without progress after which a job fails."""
    concurrency: Annotated[int, Meta(ge=0, le=MAX_COUNT)] = 16
    """Jobs that each worker runs at the same time. 0: workers accept jobs and run none."""
    max_queued_jobs: Annotated[int, Meta(ge=0, le=MAX_COUNT)] = 100_000
    """Jobs of all models together that may wait. Further ones are rejected."""
    max_queued_jobs_per_account: Annotated[int, Meta(ge=0, le=MAX_COUNT)] = 25_000
    """Jobs that may wait of one account, or without accounts of one key."""
    max_queued_bytes: Annotated[int, Meta(ge=0)] = 1024 * 1024 * 1024
    """Size of all waiting jobs together. Further ones are rejected."""
    max_queued_bytes_per_account: Annotated[int, Meta(ge=0)] = 256 * 1024 * 1024
    """Size of the waiting jobs of one account, or without accounts of one key."""
    client_wait_seconds: PositiveSeconds = 600.0
    """Time after which a job that has not started fails, if its client holds the connection."""
    result_ttl_hours: Annotated[float, Meta(gt=0)] = 24.0
    """Time that results are kept after the end of the job."""
    max_result_bytes: Annotated[int, Meta(ge=0)] = 1024 * 1024 * 1024
    """Size of all results together. Above it, the accounts with the most stored lose their oldest."""
    webhook_secret: SecretSetting | None = None
    """`whsec_` and 24 to 64 bytes in base64, which sign the webhooks. Not set: webhooks are off."""
    webhook_allow_http: bool = False
    """Send webhooks without TLS too."""
    webhook_allow_private_addresses: bool = False
    """Send webhooks to addresses too that only this machine or its network can reach."""
    webhook_max_attempts: Annotated[int, Meta(ge=1, le=MAX_COUNT)] = 8
    """Attempts to deliver a webhook. 8 take 16 to 21 hours."""


class MetricsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `/metrics` shows."""

    vllm_names: bool = False
    """Export metrics under vLLM's names too, for its dashboards, autoscalers and endpoint pickers."""


class KeySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An API key that opens the server without accounts."""

    name: Text
    """Name of the key's owner, for people."""
    key: LongSecret
    """The key itself."""
    group: Text | None = None
    """Keys of one group share prefixes and take turns with others as one. Not set: the key is a group of its own."""


class AdminKeySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key of the admin API: either `key` or `sha256`."""

    name: Text
    """Name under which changes are recorded."""
    key: LongSecret | None = None
    """The key itself."""
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None
    """The key's digest, as `printf %s KEY | sha256sum` prints it."""

    def __post_init__(self) -> None:
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("expected either `key` or `sha256`")

    @property
    def digest(self) -> str:
        """The key's digest, however it was set."""
        return self.sha256 or key_digest(self.key or "")


class AdminSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The admin API of the accounts."""

    keys: tuple[AdminKeySettings, ...] = ()
    """Keys of the admin API. None: there is no admin API."""


class DeploymentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model and the names it is served under."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    """Name that clients request, and the first part of float16's paths."""
    model: Text | None = None
    """The model, as the top level's `model` but no URL. Not set: upstreams alone answer; without any, the bundled model
    does."""
    upstreams: tuple[UpstreamSettings, ...] = ()
    """Other servers that answer for it."""
    route: RoutingPolicy = "cache"
    """Which replica gets a request. `cache`: where the longest prefix of its prompt is cached. `least`: where the
    fewest tokens are in flight. `weighted`: at random, by weight. `first`: the first that can take it."""
    wait_seconds: Seconds = 120.0
    """Time that a request waits for a replica that can take it, all its attempts together, unless its client gives less
    (`x-request-timeout`). 0: none."""
    max_waiting: Annotated[int, Meta(ge=0, le=MAX_COUNT)] = 1_000
    """Requests of each worker that may wait for a replica. Further ones are rejected at once."""
    attempts: Annotated[int, Meta(ge=1, le=16)] = 3
    """Attempts to have a request answered before its first token, on different replicas where there are several."""
    hedge_after_seconds: PositiveSeconds | None = None
    """Time without a token after which another replica is asked too; the first to begin answers, and the other one is
    cancelled. Not for servers that may charge for it (kind `openai`). Not set: never."""
    fallbacks: tuple[Text, ...] = ()
    """Deployments that answer after all attempts, at their own prices, if the key may use them."""
    context_fallbacks: tuple[Text, ...] = ()
    """Deployments that answer prompts which are too long for this one, at their own prices."""
    aliases: tuple[Text, ...] = ()
    """Further names. The model's own names are always among them."""
    dialects: tuple[DialectName, ...] | None = None
    """Dialects that serve the deployment. Not set: all."""
    tool_format: ToolFormatName | None = None
    """Markup in which the model calls tools. Not set: the one that its chat template shows."""
    load: LoadPolicy = "eager"
    """`eager`: load the model at start. `lazy`: load it for its first request."""
    unload_idle_seconds: PositiveSeconds | None = None
    """Time without requests after which the model is unloaded. The next request loads it again. Not set: never."""
    shared_prefixes: tuple[Text, ...] = ()
    """Beginnings of prompts that all accounts share, such as a common system prompt: the text, or `@` and the path of a
    file. Anybody can find out whether they were used. Everything else is shared within an account only."""
    purpose: ModelKind | None = None
    """What the model is for. Not set: what its file says; for upstreams alone, `generation`."""
    dimensions: tuple[Count, ...] = ()
    """Lengths to which clients may cut the vectors of a model for embeddings that was trained for it (Matryoshka)."""
    replicas: Annotated[int, Meta(ge=1, le=64)] = 1
    """Engines that serve the model, each in a process of its own with memory of its own."""
    engine: dict[str, Any] = {}
    """Settings of `[engine]` that differ for this deployment, such as `{ threads = 4 }`."""

    def __post_init__(self) -> None:
        try:
            msgspec.convert(self.engine, EngineSettings)
        except msgspec.ValidationError as error:
            what, at, place = str(error).partition(" - at `$")
            raise ValueError(f"{what} - at `$.engine{place if at else '`'}") from error


class AdapterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A LoRA adapter and the names it is served under."""

    name: Text
    """Name that clients request."""
    path: Text
    """A .gguf file, or `owner/name` or `owner/name:FILE` of the Hugging Face hub."""
    base: Text | None = None
    """The deployment whose model it adapts. Not set: the only one."""
    scale: Annotated[float, Meta(ge=-100, le=100)] = 1.0
    """Factor of its weights. 1: as trained."""
    aliases: tuple[Text, ...] = ()
    """Further names."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings. Each struct is a table of the file, and each tuple of structs an array of tables."""

    model: Text | None = None
    """A .gguf file, a Hugging Face repository (`owner/name` or `owner/name:QUANTIZATION`), `echo` for the echo engine,
    or the URL of another server, all of whose models are served. Not set: the bundled model."""
    host: Text = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    """Port to listen on. 0: any free port."""
    uds: Text | None = None
    """Path of a Unix socket to listen on instead of the port. The server's user and group may connect."""
    ssl_certfile: Text | None = None
    """Certificate in PEM, with those of the authorities that signed it. Not set: connections are not encrypted."""
    ssl_keyfile: Text | None = None
    """The certificate's key in PEM, without a passphrase. Not set: it is in `ssl_certfile`."""
    ssl_ca_certs: Text | None = None
    """Certificates of authorities in PEM. Clients must have a certificate of one of them. Not set: they need none."""
    workers: Annotated[int, Meta(ge=1)] = 1
    """HTTP worker processes."""
    max_waiting_requests: Annotated[int, Meta(ge=0)] = 256
    """Requests that may wait for a slot of an engine. Beyond it, the account with the most waiting ones loses its
    youngest, or the new one is rejected if its own account has as many."""
    drain_seconds: Seconds = 30.0
    """Time that running requests have to finish when the server stops."""
    max_body_bytes: Annotated[int, Meta(ge=1)] = 10 * 1024 * 1024
    """Size of a request's body at most."""
    max_body_values: Count = 250_000
    """JSON values that a request's body of more than 64 KiB may hold: a token id of a prompt is one."""
    sse_keep_alive_seconds: PositiveSeconds = 15.0
    """Time without events after which a stream gets an SSE comment."""
    log_level: LogLevel = "info"
    """Least severe level that is logged."""
    log_format: LogFormat = "text"
    """One line for each event on standard error: `text` is `key=value …`, `json` is a JSON object."""
    access_log: bool = False
    """Log each request when it ends, but for those of `/health`, `/ready` and `/metrics`, at the level `info`."""
    record_usage: bool = True
    """Without accounts, record each request's tokens in the default database, if that is writable."""
    deployments: tuple[DeploymentSettings, ...] = ()
    """Several models, or other names for one. Excludes `model`."""
    adapters: tuple[AdapterSettings, ...] = ()
    """LoRA adapters that are served from the start."""
    adapter_dir: Text | None = None
    """Directory from which clients may register adapters with the source LOCAL. Not set: none."""
    allow_adapter_downloads: bool = False
    """Download adapters that clients register from the Hugging Face hub. Off: use its local cache only."""
    max_adapters: Annotated[int, Meta(ge=0, le=4096)] = 32
    """LoRA adapters that a model may have. Each stays in memory."""
    allow_adapter_registration: bool | None = None
    """Let clients register adapters, each for its own account. Not set: only without `[accounts]`."""
    max_adapters_per_account: Annotated[int, Meta(ge=0, le=4096)] = 4
    """LoRA adapters of a model that one account, or without accounts one key, may register."""
    max_adapter_registrations_per_minute: Annotated[int, Meta(ge=0, le=MAX_COUNT)] = 10
    """LoRA adapters that one account, or without accounts one key, may register in a minute at each worker."""
    max_adapter_bytes: Annotated[int, Meta(ge=1)] = 1024 * 1024 * 1024
    """Size of an adapter that a client registers. A download that is larger is refused or cut off."""
    allow_unauthenticated: bool = False
    """Listen on addresses other than loopback although no keys are set."""
    api_key: LongSecret | None = None
    """An API key that clients need, the same for all. Like one of `keys`, under the name `api_key`."""
    keys: tuple[KeySettings, ...] = ()
    """API keys that clients need. None: requests need no key, and the server listens on loopback addresses only, unless
    `allow_unauthenticated` is set."""
    public_docs: bool = True
    """Show `/docs` and `/openapi.json` to everybody. Off: only to holders of keys."""
    root_path: Text | None = None
    """Path below which a reverse proxy serves the server, such as `/llm`. It begins the URLs that the server writes,
    and is ignored at the beginning of a request's path. Not set: none."""
    dialect_hosts: dict[str, DialectName] = {}
    """Host names that serve one dialect only, on its vendor's own paths."""
    v1_dialect: Literal["infermatic", "openai"] = "infermatic"
    """Dialect of chats, texts and models under `/v1`. `openai` always answers under `/openai/v1` too."""
    allowed_hosts: tuple[Text, ...] = ()
    """Without keys: host names under which the server is served, besides those of this machine and of `dialect_hosts`.
    Requests under other names get status 421, since any web page could choose them."""
    allowed_origins: tuple[Text, ...] = ()
    """Origins, such as `https://chat.example.com`, whose web pages may send requests and read the responses (CORS), or
    `*` with keys. None: browsers let no page of another origin read a response, and without keys such pages get 403."""
    trusted_proxies: tuple[Text, ...] = ()
    """Addresses or networks, such as 10.0.0.0/8, of reverse proxies whose X-Forwarded-Host and X-Forwarded-For are
    trusted. `unix`: those that connect to the Unix socket."""
    http: HttpSettings = HttpSettings()
    supervision: SupervisionSettings = SupervisionSettings()
    metrics: MetricsSettings = MetricsSettings()
    console: ConsoleSettings = ConsoleSettings()
    images: ImageSettings = ImageSettings()
    accounts: AccountsSettings = AccountsSettings()
    admin: AdminSettings = AdminSettings()
    queue: QueueSettings = QueueSettings()
    responses: ResponsesSettings = ResponsesSettings()
    engine: EngineSettings = EngineSettings()
    echo: EchoSettings = EchoSettings()

    @property
    def client_keys(self) -> tuple[KeySettings, ...]:
        """The keys that clients need."""
        return self.keys if self.api_key is None else (*self.keys, KeySettings("api_key", self.api_key))
