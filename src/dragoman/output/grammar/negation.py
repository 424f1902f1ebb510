"""Expresses the negation of a schema by keywords that are enforced."""

import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from dragoman.output.grammar.keywords import (
    TYPES,
    InvalidKeyword,
    Node,
    Schema,
    UnenforceableKeyword,
    enforceable_keywords,
    type_of,
    types_of,
)
from dragoman.output.grammar.time_limit import check_time

Resolve = Callable[[Any], Any]
"""Returns the client's schema that the value of `$ref` refers to. Raises InvalidKeyword."""

_KINDS: Final = tuple(kind for kind in TYPES if kind != "integer")

_EFFECTIVE: Final = frozenset(
    {
        *("$ref", "$dynamicRef", "$recursiveRef", "type", "const", "enum", "not", "allOf", "anyOf", "oneOf", "if"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "pattern", "format"),
        *("items", "prefixItems", "additionalItems", "contains", "minItems", "maxItems", "uniqueItems"),
        *("properties", "patternProperties", "additionalProperties", "propertyNames", "required"),
        *("minProperties", "maxProperties", "dependencies", "dependentRequired", "dependentSchemas"),
        *("unevaluatedItems", "unevaluatedProperties"),
    }
)
"""Keywords that can make a document invalid."""

_MAX_DEPTH = 20


def effective_keywords(node: Node) -> Node:
    """Return the keywords of a schema that can make a document invalid."""
    return {keyword: value for keyword, value in node.items() if keyword in _EFFECTIVE}


def negated(schema: Any, resolve: Resolve, depth: int = 0) -> Schema:
    """Return a schema that is valid only where `schema` is not.

    It leaves out numbers that are no integers where only these would be valid. Raises InvalidKeyword, and
    UnenforceableKeyword for keywords without a negation.
    """
    check_time()
    if isinstance(schema, bool):
        return not schema
    if not isinstance(schema, dict):
        raise InvalidKeyword("must be a schema, which is an object, true or false")
    if depth > _MAX_DEPTH:
        raise UnenforceableKeyword("the negated schema is nested too deeply")
    keywords = effective_keywords(schema)
    for keyword, value in keywords.items():
        enforceable_keywords(keyword, value, schema)  # raises InvalidKeyword for what is none
    return _any_of(
        _negated_keyword(keyword, value, lambda part: negated(part, resolve, depth + 1), resolve)
        for keyword, value in keywords.items()
    )


def _any_of(schemas: Iterable[Schema]) -> Schema:
    options = [schema for schema in schemas if schema is not False]
    if not options:
        return False
    return options[0] if len(options) == 1 else {"anyOf": options}


def _negated_keyword(keyword: str, value: Any, negate: Callable[[Any], Schema], resolve: Resolve) -> Schema:
    match keyword:
        case "$ref":
            return negate(resolve(value))
        case "not":
            return value  # type: ignore[no-any-return]
        case "allOf" if isinstance(value, list):
            return _any_of(map(negate, value))
        case "anyOf" if isinstance(value, list):
            return {"allOf": [negate(part) for part in value]}
        case "type":
            return _of_kinds(set(_KINDS) - set(map(_kind, types_of({keyword: value}))))
        case "const":
            return _other_values([value])
        case "enum" if isinstance(value, list):
            return _other_values(value)
        case "required" if isinstance(value, list):
            return _any_of({"type": "object", "properties": {name: False}} for name in value)
        case "properties" if isinstance(value, dict):
            return _any_of(_with_property(name, negate(part)) for name, part in value.items())
        case "pattern" if isinstance(value, str):
            return {"type": "string", "pattern": rf"^(?![\s\S]*(?:{value}))"}
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" if not isinstance(value, bool):
            return {"type": "number", _OPPOSITE_BOUNDS[keyword]: value}
        case "minLength" | "minItems" | "maxLength" | "maxItems" if isinstance(value, int):
            return _other_counts(keyword, value)
    raise UnenforceableKeyword(f"the negation of '{keyword}' is not supported")


_OPPOSITE_BOUNDS: Final = {
    "minimum": "exclusiveMaximum",
    "exclusiveMinimum": "maximum",
    "maximum": "exclusiveMinimum",
    "exclusiveMaximum": "minimum",
}


def _kind(name: str) -> str:
    return "number" if name == "integer" else name


def _of_kinds(kinds: set[str]) -> Schema:
    return {"type": [kind for kind in _KINDS if kind in kinds]} if kinds else False


def _with_property(name: str, schema: Schema) -> Schema:
    if schema is False:
        return False
    return {"type": "object", "required": [name], "properties": {name: schema}}


def _other_counts(keyword: str, count: int) -> Schema:
    kind = "string" if keyword.endswith("Length") else "array"
    unit = keyword[3:]
    if keyword.startswith("max"):
        return {"type": kind, f"min{unit}": count + 1}
    return {"type": kind, f"max{unit}": count - 1} if count > 0 else False


def _other_values(values: list[Any]) -> Schema:
    """Return a schema of all documents but these. Raises UnenforceableKeyword."""
    kinds = {_kind(type_of(value)) for value in values}
    options: list[Schema] = [_of_kinds(set(_KINDS) - kinds)]
    if texts := [value for value in values if isinstance(value, str)]:
        options.append({"type": "string", "pattern": f"^(?!(?:{'|'.join(map(_escaped, texts))})$)"})
    if numbers := sorted({value for value in values if _kind(type_of(value)) == "number"}):
        options.append({"type": "number", "exclusiveMaximum": numbers[0]})
        options.append({"type": "number", "exclusiveMinimum": numbers[-1]})
        options += [
            {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high}
            for low, high in itertools.pairwise(numbers)
            if high - low > 1 or not isinstance(high - low, int)
        ]
    if len(flags := {value for value in values if isinstance(value, bool)}) == 1:
        options.append({"const": True not in flags})
    if "array" in kinds:
        if any(value for value in values if isinstance(value, list)):
            raise UnenforceableKeyword("the negation of an array that is not empty is not supported")
        options.append({"type": "array", "minItems": 1})
    if "object" in kinds:
        raise UnenforceableKeyword("the negation of an object is not supported")
    return _any_of(options)


def _escaped(text: str) -> str:
    return re.sub(r"([^\w\s]|_)", r"\\\1", text, flags=re.ASCII) if text.isascii() else re.escape(text)
