"""The query of a URL against its wire struct."""

from collections.abc import Mapping

import msgspec
from msgspec import inspect

from dragoman.dialects.http.validation import InvalidFields, WireStruct, decode_body

_MAX_DIGITS = 15
"""Longer numbers are no page anybody has, and none that JSON readers must take."""


class InvalidQuery(InvalidFields):
    """What is wrong stands in the query, not in the body."""


def read_query(query: Mapping[str, str], struct: type[WireStruct]) -> WireStruct:
    """The query as `struct`, whose whole numbers stand in it as text. Raises InvalidQuery."""
    document: dict[str, object] = dict(query)
    for field in msgspec.structs.fields(struct):
        if field.name in query and isinstance(inspect.type_info(field.type), inspect.IntType):
            document[field.name] = _as_number(query[field.name])
    try:
        return decode_body(msgspec.json.encode(document), struct)
    except InvalidFields as error:
        raise InvalidQuery(error.violations) from None


def _as_number(text: str) -> int | str:
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdecimal() and len(digits) <= _MAX_DIGITS else text
