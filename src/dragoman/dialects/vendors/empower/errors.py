"""Errors as this dialect reports them, in OpenAI's envelope."""

from collections.abc import Callable, Mapping

import msgspec

from dragoman.core.errors import (
    AdapterMissing,
    BadRequest,
    ContextOverflow,
    DragomanError,
    ModelNameTaken,
    Unauthenticated,
)
from dragoman.dialects.http.codec import ErrorResponse
from dragoman.dialects.http.errors import ErrorRow, ErrorRule, ErrorTable, error_headers
from dragoman.dialects.http.sse import SseEvent
from dragoman.dialects.http.validation import (
    MalformedJson,
    MissingField,
    WrongType,
    describe,
    violations_of,
)
from dragoman.dialects.vendors.empower import wire

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


def _bad_request(error: BadRequest) -> ErrorRule:
    violation = next(violations_of(error))
    field = f"'{violation.field}'"
    parameter = str(violation.path[0]) if violation.path else None
    match violation.problem:
        case MissingField():
            message, code = f"Missing required parameter: {field}", "missing_required_parameter"
        case WrongType() as problem:
            message, code = describe(field, problem), "invalid_type"
        case problem:
            message, code = describe(field, problem), "invalid_value"
    return ErrorRule(status=400, message=message, parameter=parameter, code=code)


def _unauthenticated(error: Unauthenticated) -> ErrorRule:
    match error.fault:
        case "missing":
            message, code = "No API key provided", "missing_api_key"
        case "malformed":
            message, code = "Authorization header must have the form: Bearer <token>", "invalid_api_key"
        case _:
            message, code = "Invalid API key", "invalid_api_key"
    return ErrorRule(status=401, message=message, kind="authentication_error", code=code)


_ERROR_ROWS: Mapping[type[DragomanError], ErrorRow] = {
    MalformedJson: ErrorRule(status=400),
    ContextOverflow: ErrorRule(status=400, parameter="messages", code="context_length_exceeded"),
    ModelNameTaken: ErrorRule(status=400, parameter="name", code="name_taken"),
    AdapterMissing: ErrorRule(status=400, parameter="model_name", code="model_not_available"),
    BadRequest: _bad_request,
    Unauthenticated: _unauthenticated,
}


class EmpowerErrors:
    """Errors in OpenAI's envelope, before and after the first byte."""

    def __init__(self) -> None:
        self._table = ErrorTable(_ERROR_ROWS)

    def render(self, error: DragomanError) -> ErrorResponse:
        """Return status, body and headers."""
        rule = self._table.rule(error)
        body = wire.ErrorBody(wire.ErrorDetail(rule.message, rule.kind, rule.parameter, rule.code))
        return ErrorResponse(rule.status, _encode(body), error_headers(error))

    def render_event(self, error: DragomanError) -> SseEvent:
        """Return the last event of a stream that failed; no terminator follows it."""
        return SseEvent(self.render(error).body)
