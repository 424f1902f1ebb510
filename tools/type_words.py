"""Types of fields in the words of the documents' tables."""

import sys

import msgspec
from msgspec import inspect


def alternatives(info: inspect.Type) -> tuple[inspect.Type, ...]:
    """Return the types of a union, or the type itself."""
    types = info.types if isinstance(info, inspect.UnionType) else (info,)
    return tuple(each.type if isinstance(each, inspect.Metadata) else each for each in types)


def type_name(info: inspect.Type) -> str:
    """Return the name of a type in JSON's terms: "array of strings"."""
    match info:
        case inspect.StrType() | inspect.LiteralType():
            return "string"
        case inspect.BoolType():
            return "boolean"
        case inspect.IntType():
            return "integer"
        case inspect.FloatType():
            return "number"
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return f"array of {' or '.join(dict.fromkeys(type_name(kind) + 's' for kind in alternatives(item)))}"
        case inspect.AnyType():
            return "value"
    return "object"


def allowed_range(info: inspect.Type) -> str:
    """Return the allowed values or lengths of a type, or "" if all are allowed."""
    match info:
        case inspect.IntType(ge=low, le=high, gt=above) | inspect.FloatType(ge=low, le=high, gt=above):
            return _bounds(low, high, above)
        case inspect.LiteralType(values=values):
            return ", ".join(f"`{value}`" for value in values)
        case inspect.ListType(min_length=low, max_length=high) if low is not None or high is not None:
            return f"{_bounds(low, high, None)} items"
        case inspect.StrType(min_length=low, max_length=high) if low is not None or high is not None:
            return f"{_bounds(low, high, None)} characters"
    return ""


def _bounds(low: float | None, high: float | None, above: float | None) -> str:
    if above is not None:
        return f"> {above:g}" + ("" if high in (None, sys.float_info.max) else f", ≤ {high:g}")
    if low is not None and high is not None:
        return f"{_number(low)} … {_number(high)}"
    return f"≥ {low:g}" if low is not None else f"≤ {high:g}" if high is not None else ""


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e6 else f"{value}"


def encoded(value: object) -> str:
    """Return a default as JSON, in the font of code."""
    return f"`{msgspec.json.encode(value).decode()}`"
