"""Errors in Anthropic's envelope, words and statuses.

Claude Code acts on the words of some: a prompt that is too long makes it compact the conversation.
"""

from collections.abc import Callable, Mapping

import msgspec

from dragoman.core.errors import (
    BadRequest,
    BodyTooLarge,
    ContextOverflow,
    DragomanError,
    Forbidden,
    InsufficientBalance,
    JobNotFound,
    JobTimedOut,
    Limited,
    ModelNotFound,
    NoAccount,
    Overloaded,
    Unauthenticated,
    UpstreamFailed,
)
from dragoman.dialects.anthropic import wire
from dragoman.dialects.http.codec import ErrorResponse
from dragoman.dialects.http.errors import ErrorRow, ErrorRule, ErrorTable, error_headers
from dragoman.dialects.http.fastapi_errors import fastapi_detail
from dragoman.dialects.http.sse import SseEvent
from dragoman.dialects.http.validation import InvalidFields

OVERLOADED = 529

_RETRIED = frozenset({408, 429})
"""Statuses below 500 of requests that may succeed later."""

_NO_PREFILL = "This model does not support assistant message prefill. The conversation must end with a user message."

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


def _bad_request(error: BadRequest) -> ErrorRule:
    if error.parameter == "continue_final_message":
        return ErrorRule(status=400, message=_NO_PREFILL)
    return ErrorRule(status=400, message=f"{error.parameter}: {error.message}" if error.parameter else error.message)


def _invalid_fields(error: InvalidFields) -> ErrorRule:
    first = fastapi_detail(error.violations[0])
    return ErrorRule(status=400, message=f"{'.'.join(map(str, first.loc[1:]))}: {first.msg}")


def _context_overflow(error: ContextOverflow) -> ErrorRule:
    # One token of the context is kept for an answer.
    message = f"prompt is too long: {error.prompt_tokens} tokens > {error.context_length - 1} maximum"
    return ErrorRule(status=400, message=message)


def _model_not_found(error: ModelNotFound) -> ErrorRule:
    return ErrorRule(status=404, message=f"model: {error.model}", kind="not_found_error")


def _upstream_failed(error: UpstreamFailed) -> ErrorRule:
    if error.fault == "timed_out":
        return ErrorRule(status=504, message="The model's server did not answer in time", kind="timeout_error")
    return ErrorRule(status=502, message="The model's server failed or cannot be reached", kind="api_error")


class NotServed(DragomanError):
    """The vendor has this route, and this server has not."""

    def __init__(self) -> None:
        super().__init__("Batches, files, skills and text completions are not served here")


_ERROR_ROWS: Mapping[type[DragomanError], ErrorRow] = {
    BadRequest: _bad_request,
    InvalidFields: _invalid_fields,
    ContextOverflow: _context_overflow,
    Unauthenticated: ErrorRule(status=401, message="invalid x-api-key", kind="authentication_error"),
    InsufficientBalance: ErrorRule(
        status=402, message="Your credit balance is too low to access the API", kind="billing_error"
    ),
    Forbidden: ErrorRule(status=403, kind="permission_error"),
    ModelNotFound: _model_not_found,
    JobNotFound: ErrorRule(status=404, kind="not_found_error"),
    NoAccount: ErrorRule(status=404, kind="not_found_error"),
    NotServed: ErrorRule(status=404, kind="not_found_error"),
    JobTimedOut: ErrorRule(status=408, kind="timeout_error"),
    BodyTooLarge: ErrorRule(status=413, kind="request_too_large"),
    Limited: ErrorRule(status=429, kind="rate_limit_error"),
    Overloaded: ErrorRule(status=OVERLOADED, kind="overloaded_error"),
    UpstreamFailed: _upstream_failed,
    DragomanError: ErrorRule(status=500, message="Internal server error", kind="api_error"),
}


class AnthropicErrors:
    """Implements codec.ErrorCodec."""

    def __init__(self) -> None:
        self._table = ErrorTable(_ERROR_ROWS)

    def render(self, error: DragomanError) -> ErrorResponse:
        """Return status, body and headers."""
        rule = self._table.rule(error)
        is_retried = rule.status in _RETRIED or rule.status >= 500
        headers = {"x-should-retry": "true" if is_retried else "false", **error_headers(error)}
        body = wire.ErrorBody(wire.ErrorDetail(rule.kind, rule.message))
        return ErrorResponse(rule.status, _encode(body), headers)

    def render_event(self, error: DragomanError) -> SseEvent:
        """Return the last event of a stream that failed; nothing follows it."""
        return SseEvent(self.render(error).body, "error")
