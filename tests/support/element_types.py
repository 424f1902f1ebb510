"""The types of values in an ElementSyntax, for calls that no schema describes."""

from collections.abc import Sequence
from typing import Any

from dragoman.output.element_reader import kind_of_text
from dragoman.output.element_syntax import ITEM, ValueTypes
from dragoman.prompt.tool_formats.format import type_of
from dragoman.prompt.tool_formats.minimax_m3 import MARKUP


def types_of(*values: Any) -> ValueTypes:
    """Return the types of what is one of these values."""
    types = ValueTypes()
    types.kinds = {type_of(value) for value in values}
    if items := [item for value in values if isinstance(value, list) for item in value]:
        types.items = types_of(*items)
    members: dict[str, list[Any]] = {}
    for value in values:
        for name, member in value.items() if isinstance(value, dict) else ():
            members.setdefault(name, []).append(member)
    types.members = {name: types_of(*of_name) for name, of_name in members.items()}
    return types


def can_be_elements(arguments: dict[str, Any]) -> bool:
    """Whether arguments can be written, and no value in them is written as another one of its place could be."""
    try:
        assert MARKUP.elements is not None
        MARKUP.elements.arguments(arguments)
    except ValueError:
        return False
    return _is_clear([arguments])


def _is_clear(values: Sequence[Any]) -> bool:
    kinds = {type_of(value) for value in values}
    members = [value for value in values if isinstance(value, dict)]
    texts = [value for value in values if isinstance(value, str)]
    is_composite = bool(kinds & {"array", "object"})
    if any(kind_of_text(text) in kinds or (is_composite and not text) for text in texts):
        return False
    if {"array", "object"} <= kinds and any(not value or ITEM in value for value in members):
        return False
    names = {name for value in members for name in value}
    items = [item for value in values if isinstance(value, list) for item in value]
    return (not items or _is_clear(items)) and all(
        _is_clear([value[name] for value in members if name in value]) for name in names
    )
