"""Decodes the query of a URL into its wire struct."""

from collections.abc import Mapping

import msgspec
from msgspec import inspect

from dragoman.dialects.http.validation import InvalidFields, WireStruct, decode_body

_MAX_DIGITS = 15
"""Of a number. Longer ones are beyond any page, and beyond what JSON readers must accept."""

_TRUTH = {"true": True, "false": False}


class InvalidQuery(InvalidFields):
    """The violations are in the query, not in the body."""


def read_query(query: Mapping[str, str], struct: type[WireStruct]) -> WireStruct:
    """Decode the query as `struct`; its integers and booleans are text in the query. Raises InvalidQuery."""
    document: dict[str, object] = dict(query)
    for field in msgspec.structs.fields(struct):
        if field.name not in query:
            continue
        match inspect.type_info(field.type):
            case inspect.IntType():
                document[field.name] = _as_number(query[field.name])
            case inspect.BoolType():
                document[field.name] = _TRUTH.get(query[field.name].lower(), query[field.name])
    try:
        return decode_body(msgspec.json.encode(document), struct)
    except InvalidFields as error:
        raise InvalidQuery(error.violations) from None


def _as_number(text: str) -> int | str:
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdecimal() and len(digits) <= _MAX_DIGITS else text
