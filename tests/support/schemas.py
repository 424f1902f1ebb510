"""Random JSON Schemas that can be enforced strictly, and tools with such parameters."""

import functools
import string
from typing import Any

from hypothesis import strategies as st

from dragoman.core.request import Tool

Schema = dict[str, Any]

FUNCTION_NAME_CHARACTERS = string.ascii_letters + string.digits + "_-"
"""A text of an alphabet is drawn at once, and one of a regular expression character by character."""

_NAMES = st.sampled_from(["a", "b", "name", "größe", "two words", 'q"uote', "x/y~z", "$ref", "type", "😀"])
_TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8)
_PATTERNS = st.sampled_from(
    [
        "^[a-z]+$",
        r"^\d{2,4}-\d{2}$",
        "b",
        r"^(?:foo|bar)(?:\.[A-Z]{2})?$",
        r"^\S+@\S+$",
        "^[^/]*/[^/]*$",
        r"^\w.\W$",
        "é|ß",
    ]
)
_FORMATS = st.sampled_from(["date", "date-time", "email", "ipv4", "ipv6", "time", "uuid", "hostname"])
_BOUNDS = st.integers(-1000, 1000) | st.sampled_from([0.1, -0.25, 1.5, 99.99, -1e-3])
_SCALARS: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers(-100, 100) | st.sampled_from([0.5, 1.0]) | _TEXTS
)
_CONSTANTS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.sampled_from([0.5, -1.25, 1e-7]) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=4,
)


@functools.cache
def json_schemas(*, conditions: bool = False) -> st.SearchStrategy[Schema]:
    """Generate schemas of draft 2020-12, some with definitions, some of them recursive.

    Those with `conditions` may contradict themselves.
    """
    if conditions:
        leaves = _leaves() | _conditional_leaves()
        return st.recursive(
            leaves, lambda inner: _arrays(inner) | _conditional_objects(inner) | _unions(inner), max_leaves=5
        )
    nodes = st.recursive(_leaves(), lambda inner: _arrays(inner) | _objects(inner) | _unions(inner), max_leaves=6)
    return nodes | st.builds(_with_definition, st.deferred(lambda: _objects(_leaves() | _REFERENCES)), nodes)


@functools.cache
def tools() -> st.SearchStrategy[Tool]:
    """Generate strict tools whose parameters are objects."""
    parameters = st.none() | _objects(_leaves() | _arrays(_leaves()))
    names = st.text(FUNCTION_NAME_CHARACTERS, min_size=1, max_size=12)
    return st.builds(Tool, name=names, parameters=parameters, strict=st.just(True))


_REFERENCES = st.just({"$ref": "#/$defs/node"}) | st.just({"type": "array", "items": {"$ref": "#/$defs/node"}})


def _with_definition(node: Schema, root: Schema) -> Schema:
    """Allow `root` or a node. The node is recursive, so it must not require a property."""
    node = {key: value for key, value in node.items() if key != "required"}
    return {"anyOf": [{"$ref": "#/$defs/node"}, root], "$defs": {"node": node}}


def _leaves() -> st.SearchStrategy[Schema]:
    return st.one_of(
        st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"type": "string"}, {"type": ["integer", "null"]}, {}]),
        st.builds(lambda value: {"const": value}, _CONSTANTS),
        st.builds(lambda values: {"enum": values}, st.lists(_CONSTANTS, min_size=1, max_size=4)),
        st.builds(lambda pattern: {"type": "string", "pattern": pattern}, _PATTERNS),
        st.builds(lambda name: {"type": "string", "format": name}, _FORMATS),
        _strings(),
        _numbers(),
    )


def _conditional_leaves() -> st.SearchStrategy[Schema]:
    return st.one_of(
        st.builds(lambda values: {"not": {"enum": values}}, st.lists(_SCALARS, min_size=1, max_size=3)),
        st.builds(
            lambda values, low: {"type": "array", "items": {"enum": values}, "uniqueItems": True, "minItems": low},
            st.lists(_SCALARS, min_size=1, max_size=3),
            st.integers(0, 1),
        ),
        st.just({"type": "string", "pattern": r"^(?!a).*\b(?=[a-z])\w+$"}),
    )


@st.composite
def _strings(draw: st.DrawFn) -> Schema:
    minimum = draw(st.integers(0, 5))
    return {"type": "string", "minLength": minimum, "maxLength": minimum + draw(st.integers(0, 10))}


@st.composite
def _numbers(draw: st.DrawFn) -> Schema:
    schema: Schema = {"type": draw(st.sampled_from(["integer", "number"]))}
    low, high = sorted([draw(_BOUNDS), draw(_BOUNDS)])
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = high + 10
    if draw(st.booleans()):
        schema["multipleOf"] = draw(st.sampled_from([1, 2, 5, 0.5, 0.1, 0.01]))
    return schema


@st.composite
def _arrays(draw: st.DrawFn, items: st.SearchStrategy[Schema]) -> Schema:
    schema: Schema = {"type": "array", "items": draw(items) if draw(st.booleans()) else False}
    if draw(st.booleans()):
        schema["prefixItems"] = draw(st.lists(items, min_size=1, max_size=2))
    elif schema["items"] is not False and draw(st.booleans()):
        schema["minItems"] = draw(st.integers(0, 2))
        schema["maxItems"] = schema["minItems"] + draw(st.integers(0, 3))
    return schema


@st.composite
def _objects(draw: st.DrawFn, values: st.SearchStrategy[Schema]) -> Schema:
    properties = draw(st.dictionaries(_NAMES, values, max_size=4))
    schema: Schema = {"type": "object", "properties": properties}
    if draw(st.booleans()) and properties:
        schema["required"] = draw(st.lists(st.sampled_from(sorted(properties)), unique=True))
    if draw(st.booleans()):
        schema["additionalProperties"] = draw(values) if draw(st.booleans()) else False
    return schema


@st.composite
def _conditional_objects(draw: st.DrawFn, values: st.SearchStrategy[Schema]) -> Schema:
    schema = draw(_objects(values))
    return schema | draw(_conditions(sorted(schema["properties"])))


def _conditions(names: list[str]) -> st.SearchStrategy[Schema]:
    """Generate conditions of an object with these properties."""
    name = st.sampled_from(names) if names else _NAMES
    has_value = st.builds(
        lambda name, value: {"properties": {name: {"const": value}}, "required": [name]}, name, _SCALARS
    )
    needs = st.builds(lambda name: {"required": [name]}, name)
    return st.one_of(
        st.builds(lambda first, second: {"dependentRequired": {first: [second]}}, name, name),
        st.builds(lambda first, then, other: {"if": first, "then": then, "else": other}, has_value, needs, has_value),
        st.builds(lambda first: {"not": first}, has_value | needs),
        st.just({"propertyNames": {"pattern": "^[a-z]"}}),
    )


def _unions(options: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return st.builds(
        lambda keyword, members: {keyword: members} if keyword == "anyOf" else {keyword: members[:1]},
        st.sampled_from(["anyOf", "allOf", "oneOf"]),
        st.lists(options, min_size=1, max_size=3),
    )
