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


def is_text(kind: inspect.Type) -> bool:
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    return any(isinstance(getattr(each, "type", each), inspect.StrType) for each in kinds)


def test_every_setting_that_is_called_a_key_or_secret_is_masked() -> None:
    texts = [field for field in fields(msgspec.inspect.type_info(Settings)) if is_text(field.type)]
    secrets = [field for field in texts if NAMES_OF_SECRETS.fullmatch(field.name)]
    assert {"key", "webhook_secret", "api_key"} <= {field.name for field in secrets}
    assert [field.name for field in secrets if not is_secret(field.type)] == []
