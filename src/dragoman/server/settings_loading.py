"""Settings from defaults, a TOML file, the environment and the command line."""

import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import msgspec

from dragoman.server.renamed_settings import RENAMED_SETTINGS, RENAMED_VALUES
from dragoman.server.secret_settings import IS_SECRET
from dragoman.server.settings import DEFAULT_DATABASE, Settings
from dragoman.server.settings_messages import describe_allowed, inner_message, unknown_message
from dragoman.server.settings_references import (
    REFERENCE_PREFIXES,
    ReferenceUnresolved,
    read_reference,
    resolve_references,
)

DEFAULT_FILE = Path("dragoman.toml")
ENVIRONMENT_PREFIX = "DRAGOMAN_"
FILE_SUFFIX = "_FILE"
"""DRAGOMAN_PORT_FILE is the path of a file that holds the text of DRAGOMAN_PORT."""

_SERVICE_LINK = re.compile(
    rf"{ENVIRONMENT_PREFIX}(\w+_)?"
    r"(SERVICE_HOST=.*|SERVICE_PORT(_\w+)?=\d+|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=.*|PORT=(tcp|udp|sctp)://.*)"
)
"""Variables that Kubernetes sets beside a Service whose name is or begins with `dragoman`, in the form of Docker's
links (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables)."""


class SettingsError(Exception):
    """A setting is wrong. The message is one line: where it was set, its key, its value and the allowed values."""


class SetValue(NamedTuple):
    """The value of a setting, and where it was set."""

    value: object
    origin: str
    """For people: "dragoman.toml", "environment: DRAGOMAN_PORT", "command line: --port". References follow it."""


class LoadedSettings(NamedTuple):
    """Settings, and how they were spelled."""

    settings: Settings
    deprecated: Mapping[str, str]
    """Old spellings that were used → the spelling to use instead."""
    origins: Mapping[str, str]
    """Keys that do not have their defaults → where they were set: see SetValue."""
    read_again: Callable[[], Settings]
    """Reads the settings from the same places, with the variables of then. Raises SettingsError."""


def load_settings(path: Path | None, environment: Mapping[str, str], overrides: Mapping[str, object]) -> Settings:
    """Return the settings of `read_settings` alone. Raises SettingsError."""
    return read_settings(path, environment, overrides).settings


def read_settings(path: Path | None, environment: Mapping[str, str], overrides: Mapping[str, object]) -> LoadedSettings:
    """Layer defaults, TOML file, the environment's DRAGOMAN_ variables and `overrides`. The last one wins.

    If `path` is None, ./dragoman.toml is read if it exists. The keys of `overrides` are dotted ("engine.threads"); the
    value None means that an option was not given. In the file and in `overrides`, texts may be references: see
    settings_references.py. Raises SettingsError.
    """
    variables = dict(environment)
    if path is None and DEFAULT_FILE.exists():
        path = DEFAULT_FILE  # Without it, a later reload would drop all that it sets, keys among them.
    deprecated: dict[str, str] = {}
    values = {
        **_file_values(path, environment, deprecated),
        **_environment_values(environment, deprecated),
        **_override_values(overrides, environment),
    }
    tree: dict[str, Any] = {group: {} for group in _GROUPS}
    for key, (value, _) in values.items():
        group, _, name = key.rpartition(".")
        (tree[group] if group else tree)[name] = value
    origins = {key: origin for key, (_, origin) in values.items()}
    read_again = partial(load_settings, path, variables, overrides)
    return LoadedSettings(msgspec.convert(tree, Settings), deprecated, origins, read_again)


def environment_variable(key: str) -> str:
    """Return the variable that sets `key`: DRAGOMAN_ENGINE_THREADS for "engine.threads"."""
    return ENVIRONMENT_PREFIX + key.replace(".", "_").upper()


def flag(key: str) -> str:
    """Return the option of `dragoman serve` that sets `key`, if there is one: --threads for "engine.threads"."""
    return "--" + key.rpartition(".")[2].replace("_", "-")


def _is_group(annotation: object) -> TypeGuard[type[msgspec.Struct]]:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


_GROUPS: dict[str, type[msgspec.Struct]] = {
    field.name: field.type for field in msgspec.structs.fields(Settings) if _is_group(field.type)
}


def _annotations(group: str) -> dict[str, Any]:
    """Return the dotted keys and types of one group's settings. The group "" is the top level."""
    struct = _GROUPS[group] if group else Settings
    prefix = f"{group}." if group else ""
    fields = msgspec.structs.fields(struct)
    return {prefix + field.name: field.type for field in fields if not _is_group(field.type)}


FILE_ONLY = frozenset(
    {
        "deployments",
        "adapters",
        "keys",
        "admin.keys",
        "dialect_hosts",
        "allowed_hosts",
        "allowed_origins",
        "trusted_proxies",
        "console.hosts",
        "console.keep_bodies_except",
    }
)
"""Settings that are arrays or tables. Only the file can hold them."""

_IMPLIED_BY_TABLES = {"accounts": ("accounts.database", DEFAULT_DATABASE)}
"""The setting and the value that a table of the file implies, unless it sets another value."""

_TYPES: dict[str, Any] = {
    key: annotation for group in ("", *_GROUPS) for key, annotation in _annotations(group).items()
}

_VARIABLES = {environment_variable(key): key for key in _TYPES if key not in FILE_ONLY}

_RENAMED_VARIABLES = {
    environment_variable(old): environment_variable(key)
    for old, key in RENAMED_SETTINGS.items()
    if key not in FILE_ONLY
}


def _file_values(path: Path | None, environment: Mapping[str, str], deprecated: dict[str, str]) -> dict[str, SetValue]:
    if path is None:
        return {}
    present = dict(_flatten(path, _read_toml(path)))
    values = {}
    for spelling, value in present.items():
        key = _current_spelling(str(path), spelling, RENAMED_SETTINGS, present, deprecated)
        if key not in _TYPES:
            group = key.rpartition(".")[0]
            allowed = _annotations(group) if group in _GROUPS else [*_annotations(""), *_GROUPS]
            raise SettingsError(f"{path}: {unknown_message('key', key, allowed, [*_TYPES, *_GROUPS])}")
        current = _with_current_values(key, value, deprecated)
        values[key] = _resolved(key, str(path), f"{path}: {spelling}", current, environment)
    return values


def _resolved(key: str, origin: str, where: str, value: object, environment: Mapping[str, str]) -> SetValue:
    """Resolve the references in a value and validate it. What a reference stands for is text, as variables are."""
    try:
        text, references = resolve_references(value, environment)
    except ReferenceUnresolved as error:
        raise SettingsError(f"{where}{error.place}: {error}") from error
    validated = _validated(key, where, text, shown=value if references else None, strict=not references)
    return SetValue(validated, ", ".join((origin, *references)))


def _current_spelling(
    where: str, spelling: str, renamed: Mapping[str, str], present: Mapping[str, object], deprecated: dict[str, str]
) -> str:
    """Return the current spelling, and note an old one as deprecated. Raises SettingsError if both are present."""
    current = renamed.get(spelling)
    if current is None:
        return spelling
    if current in present:
        raise SettingsError(f"{where}: {spelling} is the old name of {current}, and both are set; remove {spelling}")
    deprecated[spelling] = current
    return current


def _with_current_values(key: str, value: object, deprecated: dict[str, str]) -> object:
    """Return an array of tables with the current spellings of its values."""
    if not isinstance(value, list):
        return value
    return [_with_current_value(key, entry, deprecated) if isinstance(entry, dict) else entry for entry in value]


def _with_current_value(key: str, table: dict[str, object], deprecated: dict[str, str]) -> dict[str, object]:
    current = dict(table)
    for name, value in table.items():
        renamed = RENAMED_VALUES.get(f"{key}.{name}", {})
        if isinstance(value, str) and value in renamed:
            current[name] = renamed[value]
            deprecated[f'{key}.{name} = "{value}"'] = f'{key}.{name} = "{renamed[value]}"'
    return current


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


def _environment_values(environment: Mapping[str, str], deprecated: dict[str, str]) -> dict[str, SetValue]:
    values = {}
    for spelling, text in environment.items():
        if not spelling.startswith(ENVIRONMENT_PREFIX) or _SERVICE_LINK.fullmatch(f"{spelling}={text}"):
            continue
        variable = _current_spelling("environment", spelling, _RENAMED_VARIABLES, environment, deprecated)
        origin, shown = f"environment: {spelling}", None
        if variable not in _VARIABLES and variable.removesuffix(FILE_SUFFIX) in _VARIABLES:
            variable, text, shown = variable.removesuffix(FILE_SUFFIX), _text_of_file(spelling, text, environment), text
        if variable not in _VARIABLES:
            raise SettingsError(f"environment: {unknown_message('variable', variable, _VARIABLES, _VARIABLES)}")
        key = _VARIABLES[variable]
        # Variables are always text, so "8000" must be accepted for 8000.
        values[key] = SetValue(_validated(key, origin, text, shown=shown, strict=False), origin)
    return values


def _text_of_file(spelling: str, path: str, environment: Mapping[str, str]) -> str:
    variable = spelling.removesuffix(FILE_SUFFIX)
    if variable in environment:
        raise SettingsError(f"environment: {variable} and {spelling} are both set; remove one")
    try:
        return read_reference(Path(path))
    except ReferenceUnresolved as error:
        raise SettingsError(f"environment: {spelling}: {error}") from error


def _override_values(overrides: Mapping[str, object], environment: Mapping[str, str]) -> dict[str, SetValue]:
    values = {}
    for key, value in overrides.items():
        if value is None:
            continue
        if key not in _TYPES:
            raise SettingsError(f"command line: {unknown_message('setting', key, _TYPES, _TYPES)}")
        where = f"command line: {flag(key)}"
        if isinstance(value, str) and is_secret(_TYPES[key]) and not value.startswith(REFERENCE_PREFIXES):
            raise SettingsError(
                f"{where}: every user of this machine can read it while the server runs; pass env:NAME or file:/path, "
                f"or set {environment_variable(key)}"
            )
        values[key] = _resolved(key, where, where, value, environment)
    return values


def _validated(key: str, where: str, value: object, *, shown: object = None, strict: bool = True) -> object:
    """Return the value in the setting's type. Raises SettingsError, which shows `shown` if the value must not be."""
    annotation = _TYPES[key]
    try:
        converted: object = msgspec.convert(value, annotation, strict=strict)
    except msgspec.ValidationError as error:
        if key in FILE_ONLY:
            raise SettingsError(inner_message(where, annotation, error)) from error
        is_hidden = shown is None and isinstance(value, str) and is_secret(annotation)
        wrong = "" if is_hidden else f", got {value if shown is None else shown!r}"
        raise SettingsError(f"{where} must be {describe_allowed(annotation)}{wrong}") from error
    if isinstance(converted, float) and not math.isfinite(converted):
        raise SettingsError(f"{where} must be a finite number, got {value!r}")
    if key in FILE_ONLY and _has_infinity(value):
        raise SettingsError(f"{where}: numbers must be finite")
    if _has_misspelt_reference(converted, annotation):
        raise SettingsError(f"{where}: a secret begins with env: or file: and is neither env:NAME nor file:/path")
    return converted


def _has_infinity(value: object) -> bool:
    """Return whether a number of a table in TOML, at any depth, is infinite or none."""
    match value:
        case float():
            return not math.isfinite(value)
        case list():
            return any(map(_has_infinity, value))
        case dict():
            return any(map(_has_infinity, value.values()))
    return False


def _has_misspelt_reference(value: object, annotation: object) -> bool:
    """Return whether a secret looks like a reference and was none: `file:relative/path` would be the secret itself."""
    match value:
        case str():
            return value.startswith(REFERENCE_PREFIXES) and is_secret(annotation)
        case tuple():
            return any(_has_misspelt_reference(each, annotation) for each in value)
        case msgspec.Struct():
            fields = msgspec.structs.fields(value)
            return any(_has_misspelt_reference(getattr(value, each.name), each.type) for each in fields)
    return False


def is_secret(kind: object) -> bool:
    """Whether values of the type are shown nowhere."""
    info = kind if isinstance(kind, msgspec.inspect.Type) else msgspec.inspect.type_info(kind)
    kinds = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    return any(isinstance(each, msgspec.inspect.Metadata) and IS_SECRET in (each.extra or {}) for each in kinds)
