"""A word that a request may have is accepted whatever the other fields are, in every dialect."""

from collections.abc import Iterator
from typing import Any, get_type_hints

import msgspec
import pytest
from msgspec import inspect

from dragoman.dialects.http.operation import Operation
from dragoman.dialects.http.validation import decode_body
from dragoman.server.dialects import DIALECTS

REQUESTS: dict[str, type[msgspec.Struct]] = {
    f"{name} {operation.path}": operation.request
    for name, dialect in DIALECTS.items()
    for operation in dialect.OPERATIONS
    if isinstance(operation, Operation) and operation.request is not None
}


def words(kind: inspect.Type) -> Iterator[Any]:
    """Return the words that a value of this type may be."""
    if isinstance(kind, inspect.LiteralType):
        yield from kind.values
    elif isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from words(each)


@pytest.mark.parametrize("request_type", REQUESTS.values(), ids=REQUESTS)
def test_words_are_accepted_beside_a_null(request_type: type[msgspec.Struct]) -> None:
    types = get_type_hints(request_type, include_extras=True)
    info = inspect.type_info(request_type)
    assert isinstance(info, inspect.StructType)
    for field in info.fields:
        single = msgspec.defstruct("Single", [("value", types[field.name]), ("other", int, 0)])
        for word in words(field.type):
            # A null is not an integer, so the body is decoded in the way that also accepts null.
            decoded = decode_body(msgspec.json.encode({"value": word, "other": None}), single)
            assert msgspec.structs.asdict(decoded) == {"value": word, "other": 0}
