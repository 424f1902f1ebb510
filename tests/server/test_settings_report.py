"""Which settings are secrets."""

import re
from collections.abc import Iterator

import msgspec
from msgspec import inspect

from dragoman.server.settings import Settings
from dragoman.server.settings_loading import is_secret

NAMES_OF_SECRETS = re.compile(r"(.*_)?(key|secret|password|token)")


def fields(kind: inspect.Type) -> Iterator[inspect.Field]:
    match kind:
        case inspect.StructType():
            for field in kind.fields:
                yield field
                yield from fields(field.type)
        case inspect.VarTupleType() | inspect.ListType():
            yield from fields(kind.item_type)
        case inspect.UnionType():
            for alternative in kind.types:
                yield from fields(alternative)


def test_every_setting_that_is_called_a_key_or_secret_is_masked() -> None:
    found = {field.name: field for field in fields(msgspec.inspect.type_info(Settings))}
    named = {name for name in found if NAMES_OF_SECRETS.fullmatch(name)}
    assert {"key", "webhook_secret"} <= named
    assert [name for name in sorted(named) if not is_secret(found[name].type)] == []
