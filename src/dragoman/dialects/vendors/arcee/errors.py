"""Errors as this dialect reports them, in FastAPI's envelope.

Errors of shape (a field missing or of the wrong type) are 400 with a text that names the first; errors of value are
422 with the list of all. A body with both is reported by its shape.
"""

from collections.abc import Callable, Mapping

import msgspec

from dragoman.core.errors import (
    BadRequest,
    ContextOverflow,
    DragomanError,
    InsufficientBalance,
    ModelNotFound,
    Unauthenticated,
)
from dragoman.dialects.http.errors import ErrorRow, ErrorRule
from dragoman.dialects.http.fastapi_errors import FastApiDetail, FastApiErrors, fastapi_detail
from dragoman.dialects.http.sse import SseEvent
from dragoman.dialects.http.validation import (
    MissingField,
    NotAnObject,
    OutOfRange,
    Violation,
    WrongLength,
    WrongType,
    describe,
    violations_of,
)
from dragoman.dialects.vendors.arcee import wire

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


def _bad_request(error: BadRequest) -> ErrorRule:
    violations = list(violations_of(error))
    for violation in violations:
        if (message := _shape_error(violation)) is not None:
            return ErrorRule(status=400, message=f"Invalid request format: {message}")
    return ErrorRule(status=422, details=[_detail(violation) for violation in violations])


def _wrong_value(field: str, error: DragomanError) -> ErrorRule:
    return ErrorRule(status=422, details=[FastApiDetail(("body", field), error.message, "value_error")])


def _shape_error(violation: Violation) -> str | None:
    """Return what is wrong with the shape, in words; None if only the value is wrong."""
    match violation:
        case Violation(("messages",), WrongLength(got=0)):
            return "'messages' must hold at least one message"
        case Violation(_, MissingField() | WrongType() as problem):
            return describe(f"'{violation.field}'", problem)
    return None


def _detail(violation: Violation) -> FastApiDetail:
    match violation:
        case Violation(path, OutOfRange(low, high, None, got)) if low is not None and high is not None:
            above = got > high
            message = f"Input should be {'less' if above else 'greater'} than or equal to {high if above else low}"
            return FastApiDetail(("body", *path), message, "less_than_equal" if above else "greater_than_equal")
    return fastapi_detail(violation)


_ERROR_ROWS: Mapping[type[DragomanError], ErrorRow] = {
    NotAnObject: ErrorRule(status=400, message="Invalid request format: the body must be a JSON object"),
    ContextOverflow: lambda error: _wrong_value("messages", error),
    BadRequest: _bad_request,
    Unauthenticated: ErrorRule(status=401, message="Authentication failed due to invalid or missing API key"),
    InsufficientBalance: ErrorRule(status=402, message="Insufficient balance. Add credits to continue"),
    ModelNotFound: lambda error: _wrong_value("model", error),
    DragomanError: ErrorRule(status=500, message="An internal server error occurred while processing the request"),
}


class ArceeErrors(FastApiErrors):
    """Errors in this dialect's envelope, before and after the first byte."""

    def __init__(self) -> None:
        super().__init__(_ERROR_ROWS)

    def render_event(self, error: DragomanError) -> SseEvent:
        """Return the last event of a stream that failed; no terminator follows it."""
        rule = self._table.rule(error)
        kind = "server_error" if rule.status >= 500 else "invalid_request_error"
        stream_error = wire.StreamError(rule.message, kind, rule.status)
        return SseEvent(_encode(wire.StreamErrorBody(stream_error, rule.message)))
