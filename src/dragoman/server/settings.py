"""The settings: frozen structs filled from defaults, a TOML file, the environment and the command line.

The structs are the only place that knows a setting. Its key in the file, its DRAGOMAN_ variable, its flag,
the check of its value and the complaint about a wrong one all follow from the field and its type.
"""

import difflib
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeGuard

import msgspec
from msgspec import Meta

DEFAULT_FILE = Path("dragoman.toml")
ENVIRONMENT_PREFIX = "DRAGOMAN_"

DEFAULT_DATABASE = "sqlite"
"""Stands for the file accounts.db among the user's data."""

MAX_COUNT = 2**31 - 1
"""llama.cpp counts cells and tokens in signed 32-bit integers."""

Text: TypeAlias = Annotated[str, Meta(min_length=1)]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_COUNT)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0)]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
LoadPolicy: TypeAlias = Literal["start", "first use"]
DialectName: TypeAlias = Literal["float16", "infermatic", "empower", "scale", "arcee"]


class EngineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The embedded engine, table [engine]."""

    context_cells: Annotated[int, Meta(ge=256, le=MAX_COUNT)] = 16384
    """KV cells shared by all sequences; each holds one token."""
    parallel: Annotated[int, Meta(ge=1, le=128)] = 16
    """Sequences that decode together."""
    threads: Annotated[int, Meta(ge=1, le=512)] | None = None
    """None: all cores. ggml has room for 512."""
    step_tokens: Annotated[int, Meta(ge=16, le=MAX_COUNT)] = 512
    """Token budget of one step."""
    saved_tokens: Annotated[int, Meta(ge=0, le=MAX_COUNT)] | None = None
    """Tokens of finished requests kept in main memory for later ones; None: as many as `context_cells`."""
    reproducible: bool = False
    """Give the same tokens for a seed whatever else is in the batch."""
    rewrite_weights: Literal["auto", "never"] = "auto"
    """auto: serve a copy, made once, of a model whose quantisation the packaged library is slow with."""
    library: Text | None = None
    """`llama.cpp`, `ik_llama.cpp`, or the path of another build of llama.cpp's shared library; None: `ik_llama.cpp` for
    what it computes faster and right, `llama.cpp` for everything else."""


class EchoSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The echo engine, table [echo]."""

    tokens_per_second: Annotated[float, Meta(ge=0)] = 0
    """0: as fast as possible."""
    context_length: Count = 8192
    """In tokens, prompt and answer together."""


class AccountsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Accounts that pay for what their keys use, table [accounts]. A table without `database` means "sqlite"."""

    database: Text | None = None
    """`postgresql://user@host/name`, `sqlite:////absolute/path`, or `sqlite`; None: there are no accounts."""
    journals: Text | None = None
    """Folder on this machine's own disk for what running requests have to pay; None: beside the database's file, or
    among the user's data."""
    hold_cap: Count | None = None
    """Completion tokens that are set aside for a request at most; None: as many as it may have."""


class QueueSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The durable queue, table [queue]. There is one wherever there is a database: [accounts], or `record_usage`."""

    ageing_seconds: Annotated[float, Meta(gt=0)] = 60.0
    """A waiting job gains a step of priority for every so long."""
    max_attempts: Annotated[int, Meta(ge=1, le=MAX_COUNT)] = 3
    """A job fails that was begun so often without having come any further."""
    concurrency: Annotated[int, Meta(ge=0, le=MAX_COUNT)] = 16
    """Jobs that each worker runs at once; 0: workers only take them in."""
    max_waiting: Annotated[int, Meta(ge=0, le=MAX_COUNT)] = 100_000
    """Jobs that may wait, of all models together; further ones are refused."""
    held_seconds: Annotated[float, Meta(gt=0)] = 600.0
    """A job whose client waits for it fails when it has not begun for so long."""
    result_hours: Annotated[float, Meta(gt=0)] = 24.0
    """How long results are kept."""
    result_bytes: Annotated[int, Meta(ge=0)] = 1024 * 1024 * 1024
    """What all results may take together; above it, the oldest are removed."""
    webhook_secret: Text | None = None
    """`whsec_` and 24 to 64 bytes in base64, with which webhooks are signed; None: there are none."""
    webhook_allow_http: bool = False
    """Also send webhooks without TLS."""
    webhook_allow_private: bool = False
    """Also send webhooks to addresses that only this machine or its network can reach."""
    webhook_attempts: Annotated[int, Meta(ge=1, le=MAX_COUNT)] = 8
    """How often one is tried; 8 take the most of a day."""


class KeySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key that opens the server, a table of [[keys]]."""

    name: Text
    """Whose it is; for people."""
    key: Annotated[str, Meta(min_length=16)]


class AdminKeySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key that opens /admin, a table of [[admin.keys]]: itself, or what `sha256sum` makes of it."""

    name: Text
    """Whose it is; changes are recorded under this name."""
    key: Annotated[str, Meta(min_length=16)] | None = None
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None

    def __post_init__(self) -> None:
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("Expected either `key` or `sha256`")


class AdminSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The admin API, table [admin]."""

    keys: tuple[AdminKeySettings, ...] = ()
    """None: there is no admin API."""


class DeploymentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model and the names it is served under, a table of [[deployments]]."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    """What clients ask for, and float16's path."""
    model: Text
    """As `model` of the top level."""
    aliases: tuple[Text, ...] = ()
    """Further names; the model's own are always among them."""
    dialects: tuple[DialectName, ...] | None = None
    """The dialects that show it; None: all."""
    load: LoadPolicy = "start"
    unload_idle_seconds: Annotated[float, Meta(gt=0)] | None = None
    """Free its memory when nobody asked for so long; the next request loads it again. None: never."""


class AdapterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One LoRA adapter and the names it is served under, a table of [[adapters]]."""

    name: Text
    """What clients ask for."""
    path: Text
    """A .gguf file, or `owner/name` or `owner/name:FILE` of the Hugging Face hub."""
    base: Text | None = None
    """The deployment whose model it changes; None: the only one."""
    scale: Annotated[float, Meta(ge=-100, le=100)] = 1.0
    """How strongly; 1: as it was trained."""
    aliases: tuple[Text, ...] = ()
    """Further names."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set."""

    model: Text | None = None
    """None: the bundled model; "echo": the echo engine; otherwise as in engines.llama.sources.resolve."""
    host: Text = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    """0: any free port."""
    workers: Annotated[int, Meta(ge=1)] = 1
    """HTTP processes."""
    max_waiting: Annotated[int, Meta(ge=0)] = 256
    """Requests that may wait for a free slot; further ones are refused."""
    drain_seconds: Seconds = 30.0
    """How long running requests may go on after the server was told to stop."""
    max_body_bytes: Annotated[int, Meta(ge=1)] = 10 * 1024 * 1024
    keep_alive_seconds: Annotated[float, Meta(gt=0)] = 15.0
    """A stream that was silent for so long gets an SSE comment."""
    log_level: LogLevel = "info"
    record_usage: bool = True
    """Without accounts, keep a record of every request's tokens in the default database, where that can be written."""
    deployments: tuple[DeploymentSettings, ...] = ()
    """Several models, or other names for one; then `model` is not set."""
    adapters: tuple[AdapterSettings, ...] = ()
    """LoRA adapters served beside their models from the start."""
    adapter_folder: Text | None = None
    """Where clients may take adapters from with the source LOCAL; None: nowhere."""
    adapter_downloads: bool = False
    """Download adapters that clients ask for from the Hugging Face hub; otherwise only its cache is looked into."""
    max_adapters: Annotated[int, Meta(ge=0, le=4096)] = 32
    """LoRA adapters a model may have at once; each stays in memory."""
    open: bool = False
    """Serve on an address others can reach although there are no keys."""
    keys: tuple[KeySettings, ...] = ()
    """The keys clients must bring; none: the server is open, on loopback addresses only unless `open` is set."""
    hosts: dict[str, DialectName] = {}
    """Host names on which only one dialect answers, on its vendor's own paths."""
    proxies: tuple[Text, ...] = ()
    """Addresses of proxies whose X-Forwarded-Host and X-Forwarded-For are believed."""
    accounts: AccountsSettings = AccountsSettings()
    admin: AdminSettings = AdminSettings()
    queue: QueueSettings = QueueSettings()
    engine: EngineSettings = EngineSettings()
    echo: EchoSettings = EchoSettings()


class SettingsError(Exception):
    """A setting is wrong. One line for a person: where it was set, its key, what it is and what it may be."""


def load_settings(path: Path | None, environment: Mapping[str, str], overrides: Mapping[str, object]) -> Settings:
    """Layer defaults, TOML file, the environment's DRAGOMAN_ variables and `overrides`; the last one wins.

    `path` None stands for ./dragoman.toml, which need not exist. The keys of `overrides` are dotted
    ("engine.threads"); a value of None means that it was not given. Raises SettingsError.
    """
    values = {
        **_file_values(path),
        **_environment_values(environment),
        **_override_values(overrides),
    }
    tree: dict[str, Any] = {group: {} for group in _GROUPS}
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        (tree[group] if group else tree)[name] = value
    return msgspec.convert(tree, Settings)


def environment_variable(key: str) -> str:
    """The variable that sets `key`: DRAGOMAN_ENGINE_THREADS for "engine.threads"."""
    return ENVIRONMENT_PREFIX + key.replace(".", "_").upper()


def _is_group(annotation: object) -> TypeGuard[type[msgspec.Struct]]:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


_GROUPS: dict[str, type[msgspec.Struct]] = {
    field.name: field.type for field in msgspec.structs.fields(Settings) if _is_group(field.type)
}


def _annotations(group: str) -> dict[str, Any]:
    """The dotted keys of the settings in one group, "" being the top level, with their types."""
    struct = _GROUPS[group] if group else Settings
    prefix = f"{group}." if group else ""
    fields = msgspec.structs.fields(struct)
    return {prefix + field.name: field.type for field in fields if not _is_group(field.type)}


_FILE_ONLY = {"deployments", "adapters", "keys", "admin.keys", "hosts", "proxies"}
"""Settings with a structure of their own; they stand in the file."""

_IMPLIED_BY_TABLES = {"accounts": ("accounts.database", DEFAULT_DATABASE)}
"""What a table of the file sets by being there, unless it says otherwise."""

_TYPES: dict[str, Any] = {
    key: annotation for group in ("", *_GROUPS) for key, annotation in _annotations(group).items()
}


def _file_values(path: Path | None) -> dict[str, object]:
    if path is None:
        if not DEFAULT_FILE.exists():
            return {}
        path = DEFAULT_FILE
    values = {}
    for key, value in _flatten(path, _read_toml(path)):
        if key not in _TYPES:
            group = key.rpartition(".")[0]
            allowed = _annotations(group) if group in _GROUPS else [*_annotations(""), *_GROUPS]
            raise SettingsError(f"{path}: {_unknown_message('key', key, allowed, [*_TYPES, *_GROUPS])}")
        values[key] = _validated(key, f"{path}: {key}", value)
    return values


def _read_toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"{path}: there is no such settings file") from error
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: is not valid TOML: {error}") from error


def _flatten(path: Path, table: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if key not in _GROUPS:
            yield key, value
        elif isinstance(value, dict):
            if key in _IMPLIED_BY_TABLES:
                yield _IMPLIED_BY_TABLES[key]
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            raise SettingsError(f"{path}: {key} must be a table, [{key}], got {value!r}")


def _environment_values(environment: Mapping[str, str]) -> dict[str, object]:
    keys = {environment_variable(key): key for key in _TYPES if key not in _FILE_ONLY}
    values = {}
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        if variable not in keys:
            raise SettingsError(f"environment: {_unknown_message('variable', variable, keys, keys)}")
        # Variables are always text, so "8000" has to do for 8000.
        values[keys[variable]] = _validated(keys[variable], f"environment: {variable}", text, strict=False)
    return values


def _override_values(overrides: Mapping[str, object]) -> dict[str, object]:
    values = {}
    for key, value in overrides.items():
        if value is None:
            continue
        if key not in _TYPES:
            raise SettingsError(f"command line: {_unknown_message('setting', key, _TYPES, _TYPES)}")
        flag = "--" + key.rpartition(".")[2].replace("_", "-")
        values[key] = _validated(key, f"command line: {flag}", value)
    return values


def _unknown_message(kind: str, name: str, allowed: Iterable[str], candidates: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, candidates, n=1)
    suggestion = f"; did you mean {close[0]}?" if close else "."
    return f"unknown {kind} {name}{suggestion} Allowed here: {', '.join(allowed)}"


def _validated(key: str, where: str, value: object, *, strict: bool = True) -> object:
    annotation = _TYPES[key]
    try:
        converted: object = msgspec.convert(value, annotation, strict=strict)
    except msgspec.ValidationError as error:
        if key in _FILE_ONLY:
            # The value is not shown: it may hold keys.
            raise SettingsError(f"{where}: {str(error)[0].lower()}{str(error)[1:]}") from error
        raise SettingsError(f"{where} must be {_describe_allowed(annotation)}, got {value!r}") from error
    if isinstance(converted, float) and not math.isfinite(converted):
        raise SettingsError(f"{where} must be a finite number, got {value!r}")
    return converted


def _describe_allowed(annotation: object) -> str:
    """What a value may be, in words: "an integer from 0 to 65535"."""
    match msgspec.inspect.type_info(annotation):
        case msgspec.inspect.UnionType(types=types):
            described = [kind for kind in types if not isinstance(kind, msgspec.inspect.NoneType)]
        case only:
            described = [only]
    return " or ".join(_describe_type(kind) for kind in described)


def _describe_type(kind: msgspec.inspect.Type) -> str:
    match kind:
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.StrType():
            return "text that is not empty"
        case msgspec.inspect.LiteralType(values=values):
            return f"one of {', '.join(map(str, values))}"
        case msgspec.inspect.IntType(ge=low, le=high):
            return f"an integer{_range(low, high)}"
        case msgspec.inspect.FloatType(gt=None, ge=low):
            return f"a number{_range(low, None)}"
        case msgspec.inspect.FloatType(gt=above):
            return f"a number above {above}"
    raise NotImplementedError(f"settings of the type {kind} have no description yet")


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return ""
    return f" of at least {low}" if high is None else f" from {low} to {high}"
