"""Errors as this dialect reports them, in LiteLLM's envelope."""

from collections.abc import Callable, Mapping
from datetime import datetime

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
    KeyExpired,
    Limited,
    ModelNotFound,
    ModelUnavailable,
    Overloaded,
    RateLimited,
    ShuttingDown,
    TooManyRunning,
    Unauthenticated,
    UnsupportedEncoding,
    UpstreamFailed,
)
from dragoman.core.money import format_amount
from dragoman.core.rate_limits import Allowance
from dragoman.dialects.http.codec import ErrorResponse
from dragoman.dialects.http.errors import ErrorRow, ErrorRule, ErrorTable, error_headers
from dragoman.dialects.http.fastapi_errors import fastapi_details
from dragoman.dialects.http.sse import SseEvent
from dragoman.dialects.http.validation import (
    InvalidFields,
    MalformedJson,
    MissingField,
    Violation,
)
from dragoman.dialects.vendors.infermatic import wire

_UNLIMITED = Allowance(limit=2**63 - 1, used=0, resets_in=0)
"""What LiteLLM reports for a limit that a key does not have."""

_BUDGET_EXCEEDED = "budget_exceeded"

_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


def _utc_time(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _key_error_message(error: Unauthenticated) -> str:
    match error.fault:
        case "missing":
            return "No api key passed in."
        case "malformed":
            return f"Malformed API Key passed in. Ensure Key has `Bearer ` prefix. Passed in: ****{error.key_suffix}"
        case "unknown" if not error.has_prefix:
            return f"LiteLLM Virtual Key expected. Received=****{error.key_suffix}, expected to start with 'sk-'."
        case "disabled":
            return "Key is blocked. Update via `/key/unblock` if you're admin."
        case _:
            return "Invalid proxy server token passed"


def _bad_request(error: BadRequest) -> ErrorRule:
    message = f"litellm.BadRequestError: {error.message}"
    return ErrorRule(status=400, message=message, kind="bad_request_error", parameter=error.parameter)


def _invalid_fields(error: InvalidFields) -> ErrorRule:
    match error.violations[0]:
        case Violation((field,), MissingField()):
            return ErrorRule(
                status=400,
                message=f"Missing required parameter: '{field}'",
                kind="bad_request_error",
                parameter=str(field),
            )
        case _:
            return _bad_request(error)


def _key_expired(error: KeyExpired) -> ErrorRule:
    times = f"Key Expiry time {_utc_time(error.expired_at)} and current time {_utc_time(error.now)}"
    return ErrorRule(status=400, message=f"Authentication Error - Expired Key. {times}", kind="expired_key")


def _budget_exceeded(error: InsufficientBalance) -> ErrorRule:
    cost, limit = format_amount(error.cost), format_amount(error.limit)
    message = f"Budget has been exceeded! Current cost: {cost}, Max budget: {limit}"
    return ErrorRule(status=400, message=message, kind=_BUDGET_EXCEEDED)


def _rate_limited(error: RateLimited) -> ErrorRule:
    requests, tokens = (allowance or _UNLIMITED for allowance in error.allowances)
    message = (
        "LiteLLM Rate Limit Handler for rate limit type = key. Crossed TPM, RPM Limit. "
        f"current rpm: {requests.used}, rpm limit: {requests.limit}, "
        f"current tpm: {tokens.used}, tpm limit: {tokens.limit}"
    )
    return ErrorRule(status=429, message=message, kind="None")


def _too_many_running(error: TooManyRunning) -> ErrorRule:
    return ErrorRule(status=429, message=f"Max parallel request limit reached. Limit: {error.limit}", kind="None")


def _overloaded(error: Overloaded) -> ErrorRule:
    message = f"No deployments available for selected model, Try again in {error.retry_after} seconds"
    return ErrorRule(status=429, message=f"{message}. {error.message}", kind="None")


def _service_unavailable(error: DragomanError) -> ErrorRule:
    return ErrorRule(status=503, message=f"litellm.ServiceUnavailableError: {error.message}", kind="None")


def _upstream_failed(error: UpstreamFailed) -> ErrorRule:
    if error.fault == "timed_out":  # LiteLLM's status of its Timeout, whoever took too long.
        return ErrorRule(status=408, message=f"litellm.Timeout: {error.message}", kind="timeout_error")
    return ErrorRule(status=502, message=f"litellm.BadGatewayError: {error.message}", kind="internal_server_error")


_ERROR_ROWS: Mapping[type[DragomanError], ErrorRow] = {
    BadRequest: _bad_request,
    InvalidFields: _invalid_fields,
    MalformedJson: ErrorRule(status=400, message="Invalid JSON in request body", kind="bad_request_error"),
    KeyExpired: _key_expired,
    Unauthenticated: lambda error: ErrorRule(
        status=401, message=f"Authentication Error, {_key_error_message(error)}", kind="auth_error"
    ),
    InsufficientBalance: _budget_exceeded,
    Forbidden: lambda error: ErrorRule(status=403, message=f"Authentication Error, {error.message}", kind="auth_error"),
    JobNotFound: ErrorRule(status=404, kind="not_found_error"),
    JobTimedOut: ErrorRule(
        status=408, message="litellm.Timeout: Request timed out while polling queue", kind="timeout_error"
    ),
    BodyTooLarge: ErrorRule(status=413, kind="bad_request_error"),
    UnsupportedEncoding: ErrorRule(status=415, kind="bad_request_error"),
    Limited: ErrorRule(status=429, kind="None"),
    RateLimited: _rate_limited,
    TooManyRunning: _too_many_running,
    Overloaded: _overloaded,
    ModelUnavailable: _service_unavailable,
    ShuttingDown: _service_unavailable,
    UpstreamFailed: _upstream_failed,
    DragomanError: lambda error: ErrorRule(
        status=500, message=f"litellm.InternalServerError: {error.message}", kind="internal_server_error"
    ),
}


class InfermaticErrors:
    """Errors in LiteLLM's envelope, before and after the first byte."""

    def __init__(
        self, route: str, prompt_parameter: str, overrides: Mapping[type[DragomanError], ErrorRow] | None = None
    ) -> None:
        """`route` is named in one message; `prompt_parameter` is the field of a prompt that is too long."""

        def context_overflow(error: ContextOverflow) -> ErrorRule:
            # LiteLLM's client recognises OpenAI's sentence, not the name of its own exception.
            limit = f"This model's maximum context length is {error.context_length} tokens."
            message = f"litellm.ContextWindowExceededError: {limit} {error.message}"
            return ErrorRule(status=400, message=message, kind="bad_request_error", parameter=prompt_parameter)

        def model_not_found(error: ModelNotFound) -> ErrorRule:
            message = f"{route}: Invalid model name passed in model={error.model}. "
            return ErrorRule(
                status=400, message=f"{message}Call `/v1/models` to view available models for your key.", kind="None"
            )

        rows: dict[type[DragomanError], ErrorRow] = {ContextOverflow: context_overflow, ModelNotFound: model_not_found}
        self._table = ErrorTable({**_ERROR_ROWS, **rows, **(overrides or {})})

    def render(self, error: DragomanError) -> ErrorResponse:
        """Return status, body and headers."""
        rule = self._table.rule(error)
        # An absent parameter is the text "None", except where a budget is used up.
        parameter = None if rule.kind == _BUDGET_EXCEEDED else rule.parameter or "None"
        detail = wire.ErrorDetail(rule.message, rule.kind, parameter, str(rule.status))
        headers = {} if isinstance(error, Unauthenticated) else error_headers(error)  # LiteLLM asks for no scheme.
        return ErrorResponse(rule.status, _encode(wire.ErrorBody(detail)), headers)

    def render_event(self, error: DragomanError) -> SseEvent:
        """Return the last event of a stream that failed; no terminator follows it."""
        return SseEvent(self.render(error).body)


class LookupErrors(InfermaticErrors):
    """The errors of the lookup routes, on which an unknown model is a 404."""

    def __init__(self) -> None:
        super().__init__(
            "", "prompt", {ModelNotFound: ErrorRule(status=404, kind="not_found_error", parameter="model")}
        )


class TokenCounterErrors(LookupErrors):
    """The errors of the token counter, which reports a wrong body as FastAPI does."""

    def render(self, error: DragomanError) -> ErrorResponse:
        if isinstance(error, InvalidFields):
            return ErrorResponse(422, _encode({"detail": fastapi_details(error)}), {})
        if isinstance(error, BadRequest) and not isinstance(error, MalformedJson | ContextOverflow):
            return ErrorResponse(400, _encode({"detail": error.message}), {})
        return super().render(error)
