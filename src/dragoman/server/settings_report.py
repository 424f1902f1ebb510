"""All settings as people may see them: with the place where each was set, and without secrets."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from dragoman.server.settings import Settings
from dragoman.server.settings_loading import LoadedSettings, is_secret

MASK = "********"
DEFAULT = "default"
"""The origin of a setting that was set nowhere."""

_PASSWORD = re.compile(r"(?P<before>://[^/@:\s]*:|[?&]password=)[^@/&\s]+")
"""A password in the URL of a database."""


class ReportedSetting(NamedTuple):
    """A setting."""

    key: str
    value: Any
    """Of JSON's types. The whole array, for arrays of tables."""
    origin: str


def report_values(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Yield the key and value of each setting, in the order of docs/configuration.md."""
    for key, value, kind in _settings(settings):
        yield key, _without_secrets(value, kind)


def report_settings(loaded: LoadedSettings) -> Iterator[ReportedSetting]:
    """Yield all settings, in the order of docs/configuration.md."""
    for key, value, kind in _settings(loaded.settings):
        yield ReportedSetting(key, _without_secrets(value, kind), loaded.origins.get(key, DEFAULT))


def _settings(settings: msgspec.Struct, prefix: str = "") -> Iterator[tuple[str, object, inspect.Type]]:
    groups = []
    for field in _fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, msgspec.Struct):
            groups.append((value, f"{field.name}."))
        else:
            yield prefix + field.name, value, field.type
    for group, name in groups:
        yield from _settings(group, name)


def _without_secrets(value: object, kind: inspect.Type) -> object:
    if value is not None and is_secret(kind):
        return MASK
    match value:
        case msgspec.Struct():
            return {field.name: _without_secrets(getattr(value, field.name), field.type) for field in _fields(value)}
        case tuple():
            return [_without_secrets(item, _item_type(kind)) for item in value]
        case str():
            return _PASSWORD.sub(rf"\g<before>{MASK}", value)
    return value


def _item_type(kind: inspect.Type) -> inspect.Type:
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    return next(each.item_type for each in kinds if isinstance(each, inspect.VarTupleType))


def _fields(settings: msgspec.Struct) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(type(settings))
    assert isinstance(info, inspect.StructType)
    return info.fields
