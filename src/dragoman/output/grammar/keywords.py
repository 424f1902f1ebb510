"""JSON Schema's keywords that hold no schemas: what each may say, and what of it is enforced."""

import math
from decimal import Decimal
from typing import Any, Final

from dragoman.output.grammar.pattern import UNWRITABLE, MalformedPattern, UnportablePattern, portable_pattern

Node = dict[str, Any]
Schema = Node | bool

TYPES: Final = ("null", "boolean", "object", "array", "number", "string", "integer")

FORMATS: Final = ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid")
"""The values of `format` that are enforced."""

MAX_EXACT_NUMBER: Final = 2**53
"""Up to here integers are exact as doubles, in which llguidance and most readers of JSON compute."""

MAX_DIVISOR: Final = 10_000
"""Of `multipleOf`, without its decimal point: the automaton of the multiples has as many states."""

MAX_COUNT: Final = 1_000_000
"""Of characters, items or properties. No answer comes near it."""


class InvalidKeyword(Exception):
    """The keyword's value is none that it may have. The message goes on after the keyword and its place."""


class UnenforceableKeyword(Exception):
    """The keyword's value cannot be enforced to the letter. The message says why, or is empty."""


def enforceable_keywords(keyword: str, value: Any, node: Node) -> Node:
    """What the keyword becomes in `node`, the schema it stands in: none, one or several keywords.

    One that is not known says nothing, as JSON Schema has it. Raises Invalid and Unenforced.
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
            return {keyword: checked_pattern(value)}
        case "format":
            return _format(value, node)
    return {}


def names_of(keyword: str, node: Node) -> tuple[str, ...]:
    """The names in `properties` or `required`, none if it is absent or invalid."""
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
    """The bound, or one that leaves out numbers that are not exact as doubles."""
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
    for _ in range(places):  # llguidance moves the point like this, and must arrive
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
    """Names beyond `properties` may repeat, so no more than one of them can be asked for."""
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
    """The pattern in the form of grammar.pattern. Raises Invalid and Unenforced."""
    if not isinstance(pattern, str):
        raise InvalidKeyword("must be a string")
    try:
        return portable_pattern(pattern, wide=wide)
    except MalformedPattern as error:
        raise InvalidKeyword(f"has the pattern {pattern!r}, which is wrong: {error}") from error
    except UnportablePattern as error:
        raise UnenforceableKeyword(f"in the pattern {pattern!r}, {error}") from error


def _format(value: Any, node: Node) -> Node:
    if not isinstance(value, str):
        raise InvalidKeyword("must be a string")
    if value in FORMATS:
        return {"format": value}
    types = node.get("type", "string")
    if types == "string" or (isinstance(types, list) and "string" in types):
        raise UnenforceableKeyword(f"{value!r} is none of {', '.join(FORMATS)}")
    return {}  # formats of numbers say nothing that could be checked
