"""Errors in OpenAI's words, envelope and statuses."""

from collections.abc import Callable, Mapping

import msgspec

from dragoman.core.errors import (
    BadRequest,
    ContextOverflow,
    DragomanError,
    Forbidden,
    InsufficientBalance,
    Limited,
    ModelNotFound,
    Overloaded,
    TokenRateLimited,
    Unauthenticated,
)
from dragoman.dialects.http.codec import ErrorResponse
from dragoman.dialects.http.errors import NOT_AGAIN, ErrorRow, ErrorRule, ErrorTable, error_headers
from dragoman.dialects.http.sse import SseEvent
from dragoman.dialects.http.validation import (
    InvalidValue,
    MalformedJson,
    MissingField,
    NotOneOf,
    OutOfRange,
    PatternMismatch,
    Problem,
    WrongLength,
    WrongType,
    describe,
    violations_of,
    with_article,
)
from dragoman.dialects.openai import wire

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode

_DECIMAL_FIELDS = {
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
}
"""Fields whose values need not be integers."""


def _bad_request(error: BadRequest) -> ErrorRule:
    violation = next(violations_of(error))
    message, code = _worded(violation.field, violation.problem)
    return ErrorRule(status=400, message=message, parameter=violation.field or None, code=error.code or code)


def _worded(field: str, problem: Problem) -> tuple[str, str | None]:
    """Return a problem in OpenAI's words, and its code."""
    match problem:
        case MissingField():
            return f"Missing required parameter: '{field}'.", "missing_required_parameter"
        case WrongType(expected):
            types = " or ".join(map(with_article, expected))
            return f"Invalid type for '{field}': expected {types}.", "invalid_type"
        case OutOfRange(_, high, _, got) if high is not None and got > high:
            return (
                f"Invalid '{field}': value above the maximum. Expected a value <= {high:g}, but got {got:g} instead.",
                _range_code(field, "above_max_value"),
            )
        case OutOfRange(low, _, above, got):
            bound = f">= {low:g}" if above is None and low is not None else f"> {above or 0:g}"
            return (
                f"Invalid '{field}': value below the minimum. Expected a value {bound}, but got {got:g} instead.",
                _range_code(field, "below_min_value"),
            )
        case WrongLength(json_type, low, high, got):
            beyond = f"{json_type} too long" if high is not None and got > high else f"{json_type} too short"
            expected_length = f"at most {high}" if high is not None and got > high else f"at least {low}"
            return (
                f"Invalid '{field}': {beyond}. Expected a length of {expected_length}, but got {got} instead.",
                f"{json_type}_{'above_max_length' if high is not None and got > high else 'below_min_length'}",
            )
        case NotOneOf(values, got):
            supported = ", ".join(f"'{value}'" for value in values)
            return f"Invalid value: '{str(got)[:40]}'. Supported values are: {supported}.", "invalid_value"
        case PatternMismatch(pattern):
            return (
                f"Invalid '{field}': string does not match pattern. Expected a string that matches '{pattern}'.",
                "invalid_value",
            )
        case InvalidValue(message):
            return message, None
    return describe(f"'{field}'", problem), "unknown_parameter"


def _range_code(field: str, kind: str) -> str:
    return f"{'decimal' if field.partition('.')[0] in _DECIMAL_FIELDS else 'integer'}_{kind}"


def _unauthenticated(error: Unauthenticated) -> ErrorRule:
    match error.fault:
        case "missing":
            message = (
                "You didn't provide an API key. You need to provide your API key in an Authorization header "
                "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
            )
            return ErrorRule(status=401, message=message)
        case "malformed":
            message = "Invalid Authorization header. Expected: Authorization: Bearer YOUR_KEY."
        case _:
            shown = f": ****{error.key_suffix}" if error.key_suffix else ""
            message = f"Incorrect API key provided{shown}."
    return ErrorRule(status=401, message=message, code="invalid_api_key")


def _limited(error: Limited) -> ErrorRule:
    kind = "tokens" if isinstance(error, TokenRateLimited) else "requests"
    return ErrorRule(status=429, kind=kind, code="rate_limit_exceeded")


def _model_not_found(error: ModelNotFound) -> ErrorRule:
    message = f"The model `{error.model}` does not exist or you do not have access to it."
    return ErrorRule(status=404, message=message, code="model_not_found")


def _context_overflow(error: ContextOverflow) -> ErrorRule:
    # Libraries that get the message without the code recognise it by one half of the sentence or the other.
    limit = f"This model's maximum context length is {error.context_length} tokens, so the prompt is too long."
    return ErrorRule(
        status=400,
        message=f"{limit} {error.message}",
        parameter=error.parameter,
        code="context_length_exceeded",
    )


_ERROR_ROWS: Mapping[type[DragomanError], ErrorRow] = {
    MalformedJson: ErrorRule(status=400, message="We could not parse the JSON body of your request."),
    ContextOverflow: _context_overflow,
    BadRequest: _bad_request,
    Unauthenticated: _unauthenticated,
    Forbidden: ErrorRule(status=403, code="permission_denied"),
    ModelNotFound: _model_not_found,
    # OpenAI's own status. Its libraries do not retry this 429, as the header says.
    InsufficientBalance: ErrorRule(
        status=429,
        message="You exceeded your current quota, please check your plan and billing details.",
        kind="insufficient_quota",
        code="insufficient_quota",
    ),
    Limited: _limited,
    Overloaded: ErrorRule(status=503, kind="server_error", code="server_overloaded"),
    DragomanError: ErrorRule(
        status=500, message="The server had an error while processing your request.", kind="server_error"
    ),
}


class OpenAIErrors:
    """Errors in OpenAI's envelope, before and after the first byte."""

    def __init__(self, overrides: Mapping[type[DragomanError], ErrorRow] | None = None) -> None:
        self._table = ErrorTable({**_ERROR_ROWS, **(overrides or {})})

    def render(self, error: DragomanError) -> ErrorResponse:
        """Return status, body and headers."""
        rule = self._table.rule(error)
        headers = error_headers(error)
        if isinstance(error, InsufficientBalance):
            headers |= NOT_AGAIN
        return ErrorResponse(rule.status, _encode(wire.ErrorBody(_detail(rule))), headers)

    def render_event(self, error: DragomanError) -> SseEvent:
        """Return the last event of a stream that failed; no terminator follows it."""
        return SseEvent(self.render(error).body)

    def detail_of(self, error: DragomanError) -> wire.ErrorDetail:
        """Return the members of the envelope."""
        return _detail(self._table.rule(error))


def _detail(rule: ErrorRule) -> wire.ErrorDetail:
    return wire.ErrorDetail(rule.message, rule.kind, rule.parameter, rule.code)
