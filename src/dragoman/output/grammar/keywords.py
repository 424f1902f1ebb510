"""JSON Schema keywords without subschemas: their valid values, and which of these are enforced."""

import functools
import json
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, TypeVar

from dragoman.output.grammar.pattern import (
    UNWRITABLE,
    MalformedPattern,
    UnportablePattern,
    portable_pattern,
    portable_patterns,
)

Node = dict[str, Any]
Schema = Node | bool
_Rewritten = TypeVar("_Rewritten")

TYPES: Final = ("null", "boolean", "object", "array", "number", "string", "integer")

FORMATS: Final = ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid")
"""The values of `format` that are enforced."""

_BASE64: Final = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"

FORMAT_PATTERNS: Final = {
    **{
        f"uuid{version}": f"^[0-9a-f]{{8}}-[0-9a-f]{{4}}-{version}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}$"
        for version in (1, 3, 4, 5, 6, 7, 8)
    },
    "base64": _BASE64,
    "base64url": "^(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2}==|[A-Za-z0-9_-]{3}=)?$",
    "byte": _BASE64,
    "json-pointer": "^(?:/(?:[^/~]|~[01])*)*$",
}
"""Further values of `format` that are enforced → the pattern of texts that have them."""

FORMATS_WITHOUT_SYNTAX: Final = frozenset(
    {"binary", "password", "path", "file-path", "directory-path", "textarea", "markdown", "html", "multiline"}
)
"""Values of `format` that say what a text is for. Any text has them."""

STANDARD_FORMATS: Final = frozenset(
    {
        *("idn-email", "idn-hostname", "iri", "iri-reference", "uri-reference", "uri-template", "regex"),
        "relative-json-pointer",
    }
)
"""Formats of JSON Schema that are not enforced. Other names beside a `pattern` have no effect."""

MAX_EXACT_NUMBER: Final = 2**53
"""The largest integer that is exact as a double, the number type of llguidance and most JSON parsers."""

MAX_DIVISOR: Final = 10_000
"""Limit of `multipleOf` without its decimal point: the automaton of its multiples has that many states."""

MAX_COUNT: Final = 1_000_000
"""Limit of characters, items or properties, far beyond any answer."""


class InvalidKeyword(Exception):
    """The keyword has an invalid value. The message continues after the keyword and its pointer."""


class UnenforceableKeyword(Exception):
    """The keyword's value cannot be enforced exactly. The message is the reason, or empty."""


def enforceable_keywords(keyword: str, value: Any, node: Node) -> Node:
    """Rewrite a keyword of the schema `node` into none, one or several keywords.

    Unknown keywords have no effect, as in JSON Schema. Raises InvalidKeyword and UnenforceableKeyword.
    """
    match keyword:
        case "type":
            return {keyword: _types(value)}
        case "const":
            return {keyword: _constant(value)}
        case "enum":
            if not isinstance(value, list):
                raise InvalidKeyword("must be an array")
            return {keyword: [_constant(member) for member in value]}
        case "exclusiveMinimum" | "exclusiveMaximum" if isinstance(value, bool):
            return _exclusive_in_draft_4(keyword, value, node)
        case "minimum" | "exclusiveMinimum":
            return {keyword: _lower_bound(value)}
        case "maximum" | "exclusiveMaximum":
            return {keyword: -_lower_bound(-_number(value))}
        case "multipleOf":
            return {keyword: _divisor(value)}
        case "minLength" | "minItems":
            return {keyword: _count(value, MAX_COUNT)}
        case "maxLength" | "maxItems":
            return {keyword: count} if (count := _count(value)) <= MAX_COUNT else {}
        case "minProperties" | "maxProperties":
            return _properties_count(keyword, _count(value), node)
        case "required":
            return {keyword: _names(value)}
        case "pattern":
            first, *others = _checked(value, portable_patterns)
            return {keyword: first} | ({"allOf": [{keyword: other} for other in others]} if others else {})
        case "format":
            return _format(value, node)
    return {}


def canonical_text(document: Any) -> str:
    """Return the same text for equal documents: 1.0 is 1, and the order of names does not matter."""
    return json.dumps(_canonical(document), sort_keys=True)


def _canonical(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_canonical(member) for member in value]
        case dict():
            return {name: _canonical(member) for name, member in value.items()}
    return value


def types_of(node: Node) -> tuple[str, ...]:
    """Return the valid values of `type`: all if it is absent."""
    types = node.get("type", TYPES)
    return (types,) if isinstance(types, str) else tuple(types)


def type_of(document: Any) -> str:
    """Return the type of a document. That of 1.0 is number, though it is an integer as well."""
    match document:
        case bool():
            return "boolean"
        case None:
            return "null"
        case str():
            return "string"
        case int():
            return "integer"
        case float():
            return "number"
        case list():
            return "array"
    return "object"


def names_of(keyword: str, node: Node) -> tuple[str, ...]:
    """Return the names in `properties` or `required`; none if the keyword is absent or invalid."""
    value = node.get(keyword)
    return tuple(name for name in value if isinstance(name, str)) if isinstance(value, dict | list) else ()


def _types(value: Any) -> Any:
    types = [value] if isinstance(value, str) else value
    if not isinstance(types, list) or not types or any(kind not in TYPES for kind in types):
        raise InvalidKeyword(f"must be one or several of {', '.join(TYPES)}")
    return value


def _constant(value: Any) -> Any:
    match value:
        case str():
            if UNWRITABLE.search(value):
                raise UnenforceableKeyword("it has control characters")
        case bool() | None:
            pass
        case int() | float():
            if abs(value) > MAX_EXACT_NUMBER:
                raise UnenforceableKeyword("it has a number that is not exact as a double")
            return int(value) if value == int(value) else value
        case list():
            return [_constant(member) for member in value]
        case dict():
            return {name: _constant(member) for name, member in value.items()}
    return value


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidKeyword("must be a number")
    return value


def _lower_bound(value: Any) -> int | float:
    """Return the bound, raised to exclude numbers that are not exact as doubles."""
    if _number(value) > MAX_EXACT_NUMBER:
        raise UnenforceableKeyword("it is not exact as a double")
    return max(_number(value), -MAX_EXACT_NUMBER)


def _exclusive_in_draft_4(keyword: str, value: bool, node: Node) -> Node:
    bound = node.get("minimum" if keyword == "exclusiveMinimum" else "maximum")
    return {} if not value or bound is None else enforceable_keywords(keyword, _number(bound), {})


def _divisor(value: Any) -> int | float:
    if _number(value) <= 0:
        raise InvalidKeyword("must be greater than 0")
    number = Decimal(repr(value)).normalize()
    places = max(0, -int(number.as_tuple().exponent))
    shifted = float(value)
    for _ in range(places):  # llguidance shifts the point like this, and must get the exact integer
        shifted *= 10
    if number.scaleb(places) > MAX_DIVISOR or shifted != number.scaleb(places):
        raise UnenforceableKeyword(f"without its point it is over {MAX_DIVISOR}, or not exact as a double")
    return _number(value)


def _count(value: Any, maximum: float = math.inf) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != math.floor(value):
        raise InvalidKeyword("must be an integer, and not negative")
    if value > maximum:
        raise InvalidKeyword(f"must be at most {maximum}")
    return int(value)


def _properties_count(keyword: str, count: int, node: Node) -> Node:
    """Require at most one name beyond `properties`, since further ones might repeat it."""
    required = set(names_of("required", node))
    if keyword == "minProperties" and count <= len(required):
        return {}
    if set(names_of("properties", node)) - required:
        raise UnenforceableKeyword("it is enforced only where all properties are required")
    if keyword == "minProperties" and count > len(required) + 1:
        raise UnenforceableKeyword("it is enforced only up to one more than there are required properties")
    return {keyword: count}


def _names(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise InvalidKeyword("must be an array of strings")
    return list(dict.fromkeys(value))


def checked_pattern(pattern: Any, *, wide: bool = False) -> str:
    """Return the pattern in the form of grammar.pattern. Raises InvalidKeyword and UnenforceableKeyword."""
    return _checked(pattern, functools.partial(portable_pattern, wide=wide))


def _checked(pattern: Any, rewrite: Callable[[str], _Rewritten]) -> _Rewritten:
    if not isinstance(pattern, str):
        raise InvalidKeyword("must be a string")
    try:
        return rewrite(pattern)
    except MalformedPattern as error:
        raise InvalidKeyword(f"has the pattern {pattern!r}, which is wrong: {error}") from error
    except UnportablePattern as error:
        raise UnenforceableKeyword(f"in the pattern {pattern!r}, {error}") from error


def _format(value: Any, node: Node) -> Node:
    if not isinstance(value, str):
        raise InvalidKeyword("must be a string")
    if value in FORMATS:
        return {"format": value}
    if value == "ipvanyaddress":
        return {"allOf": [{"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}]}
    if value in FORMAT_PATTERNS:
        return {"allOf": [{"pattern": checked_pattern(FORMAT_PATTERNS[value])}]}
    types = node.get("type", "string")
    is_text = types == "string" or (isinstance(types, list) and "string" in types)
    if not is_text or value in FORMATS_WITHOUT_SYNTAX or ("pattern" in node and value not in STANDARD_FORMATS):
        return {}
    raise UnenforceableKeyword(f"{value!r} is none of {', '.join((*FORMATS, *FORMAT_PATTERNS))}")
