"""FastAPI's envelope for errors: `detail` is a text, or a list of everything that is wrong with the request."""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from dragoman.core.errors import BadRequest, ContextOverflow, DragomanError
from dragoman.dialects.http.codec import ErrorResponse
from dragoman.dialects.http.errors import ErrorRow, ErrorRule, ErrorTable, error_headers
from dragoman.dialects.http.query import InvalidQuery
from dragoman.dialects.http.validation import (
    InvalidValue,
    MalformedJson,
    MissingField,
    NotOneOf,
    OutOfRange,
    PatternMismatch,
    Problem,
    UnknownField,
    Violation,
    WrongLength,
    WrongType,
    violations_of,
)

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


class FastApiDetail(msgspec.Struct, frozen=True):
    """One entry of the list."""

    loc: tuple[str | int, ...]
    msg: str
    type: str


def fastapi_detail(violation: Violation, place: str = "body") -> FastApiDetail:
    """Return a violation in FastAPI's words. `place` is the part of the request it is in."""
    message, kind = _message_and_type(violation.problem)
    return FastApiDetail((place, *violation.path), message, kind)


def fastapi_details(error: BadRequest) -> list[FastApiDetail]:
    """Return everything that is wrong with the body."""
    return [fastapi_detail(violation) for violation in violations_of(error)]


def _query_rule(error: InvalidQuery) -> ErrorRule:
    return ErrorRule(status=422, details=[fastapi_detail(violation, "query") for violation in error.violations])


_FASTAPI_ROWS: Mapping[type[DragomanError], ErrorRow] = {
    BadRequest: lambda error: ErrorRule(status=422, details=fastapi_details(error)),
    InvalidQuery: _query_rule,
    MalformedJson: ErrorRule(status=400),
    ContextOverflow: ErrorRule(status=400),
}


class FastApiErrors:
    """Implements codec.ErrorRenderer with FastAPI's envelope."""

    def __init__(self, overrides: Mapping[type[DragomanError], ErrorRow]) -> None:
        self._table = ErrorTable({**_FASTAPI_ROWS, **overrides})

    def render(self, error: DragomanError) -> ErrorResponse:
        """Return status, body and headers."""
        rule = self._table.rule(error)
        detail: str | Sequence[msgspec.Struct] = rule.message if rule.details is None else rule.details
        return ErrorResponse(rule.status, _encode({"detail": detail}), error_headers(error))


def _message_and_type(problem: Problem) -> tuple[str, str]:
    match problem:
        case MissingField():
            return "Field required", "missing"
        case WrongType(expected):
            name = {"array": "list", "object": "dict", "boolean": "bool", "integer": "int", "number": "float"}
            return f"Input should be a valid {' or '.join(expected)}", f"{name.get(expected[0], expected[0])}_type"
        case OutOfRange(low, high, None, _) if low is not None and high is not None:
            return f"Input should be between {low:g} and {high:g}", "value_error"
        case OutOfRange(low, high, above, got):
            if above is not None and got <= above:
                return f"Input should be greater than {above:g}", "greater_than"
            if low is not None and got < low:
                return f"Input should be greater than or equal to {low:g}", "greater_than_equal"
            return f"Input should be less than or equal to {high:g}", "less_than_equal"
        case WrongLength(json_type, low, high, got):
            noun, unit = {"array": ("List", "items"), "object": ("Dictionary", "items")}.get(
                json_type, ("String", "characters")
            )
            if low is not None and got < low:
                return f"{noun} should have at least {low} {unit}, got {got}", "too_short"
            return f"{noun} should have at most {high} {unit}, got {got}", "too_long"
        case NotOneOf(values, _):
            return f"Input should be one of {', '.join(map(str, values))}", "enum"
        case PatternMismatch(pattern):
            return f"String should match pattern '{pattern}'", "string_pattern_mismatch"
        case UnknownField():
            return "Extra inputs are not permitted", "extra_forbidden"
        case InvalidValue(message):
            return message, "value_error"
