"""Errors over HTTP: one table of statuses and texts, from which a dialect's own differ in a few rows.

A dialect overrides rows and supplies the envelope. The row of the nearest class of an error applies, so an error class
without a row is reported as its base class is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from starlette.responses import Response
from starlette.types import Scope

from dragoman.core.context import Caller
from dragoman.core.errors import (
    BadRequest,
    BodyTooLarge,
    DragomanError,
    EngineFailed,
    Forbidden,
    IdempotencyConflict,
    InsufficientBalance,
    JobCancelled,
    JobNotFound,
    JobTimedOut,
    Limited,
    ModelNotFound,
    NoAccount,
    Overloaded,
    RateLimited,
    RequestTimedOut,
    Unauthenticated,
    UnsupportedEncoding,
    UpstreamFailed,
)
from dragoman.core.jobs import SubmissionUnconfirmed
from dragoman.core.rate_limits import Allowances
from dragoman.core.services import GenerationService
from dragoman.dialects.http.codec import ErrorRenderer, ErrorResponse

FAILURE_CONTEXT = "dragoman.failure_context"

NOT_AGAIN = {"x-should-retry": "false"}
"""Keeps libraries from sending a request again, which they do for many statuses and after connection errors."""

_MAX_RATE_LIMIT_WAIT_SECONDS = 59
"""A limit per minute may need 61 seconds. Libraries such as the Vercel AI SDK ignore a `retry-after` of 60 or more, and
have made all their attempts within some seconds. After 59 seconds they are refused once more, for the rest."""


class ErrorRule(msgspec.Struct, frozen=True, kw_only=True):
    """How an error is reported."""

    status: int
    message: str = ""
    """Empty: the error's own message."""
    kind: str = "invalid_request_error"
    """`type` in OpenAI's envelope."""
    parameter: str | None = None
    """`param` in OpenAI's envelope: the field at fault."""
    code: str | None = None
    """`code` in OpenAI's envelope."""
    details: Sequence[msgspec.Struct] | None = None
    """All mistakes of the request, for envelopes that list them instead of the message."""


ErrorRow = ErrorRule | Callable[[Any], ErrorRule]
"""A rule, or a function of the error where the rule depends on it."""


def _unauthenticated(error: Unauthenticated) -> ErrorRule:
    message = "Missing API key" if error.fault == "missing" else "Invalid API key"
    return ErrorRule(status=401, message=message, kind="authentication_error", code="invalid_api_key")


def _limited(error: Limited) -> ErrorRule:
    message = f"Rate limit reached, retry in {error.retry_after} seconds"
    return ErrorRule(status=429, message=message, kind="rate_limit_error", code="rate_limit_exceeded")


def _overloaded(error: Overloaded) -> ErrorRule:
    message = f"The server is overloaded, retry in {error.retry_after} seconds"
    return ErrorRule(status=503, message=message, kind="server_error", code="overloaded")


def _upstream_failed(error: UpstreamFailed) -> ErrorRule:
    if error.fault == "timed_out":
        message = "The model's server did not answer in time"
        return ErrorRule(status=504, message=message, kind="server_error", code="upstream_timeout")
    message = "The model's server failed or cannot be reached"
    return ErrorRule(status=502, message=message, kind="server_error", code="upstream_failed")


_SHARED_ROWS: Mapping[type[DragomanError], ErrorRow] = {
    BadRequest: ErrorRule(status=400),
    Unauthenticated: _unauthenticated,
    InsufficientBalance: ErrorRule(
        status=402, message="Insufficient balance", kind="insufficient_balance", code="insufficient_balance"
    ),
    Forbidden: ErrorRule(status=403, kind="permission_error", code="permission_denied"),
    ModelNotFound: ErrorRule(status=404, parameter="model", code="model_not_found"),
    JobNotFound: ErrorRule(status=404, code="job_not_found"),
    NoAccount: ErrorRule(status=404),
    RequestTimedOut: ErrorRule(status=408, kind="timeout_error", code="timeout"),
    JobTimedOut: ErrorRule(status=408, kind="timeout_error", code="timeout"),
    IdempotencyConflict: ErrorRule(status=409, kind="idempotency_error", code="idempotency_key_in_use"),
    JobCancelled: ErrorRule(status=410, kind="cancelled", code="job_cancelled"),
    BodyTooLarge: ErrorRule(status=413),
    UnsupportedEncoding: ErrorRule(status=415),
    Limited: _limited,
    Overloaded: _overloaded,
    UpstreamFailed: _upstream_failed,
    DragomanError: ErrorRule(status=500, message="An internal error occurred", kind="server_error"),
}


class ErrorTable:
    """The rules of one dialect."""

    def __init__(self, overrides: Mapping[type[DragomanError], ErrorRow]) -> None:
        self._rows = {**_SHARED_ROWS, **overrides}

    def rule(self, error: DragomanError) -> ErrorRule:
        """Return the rule for the error, with its message filled in."""
        row = next(self._rows[each] for each in type(error).__mro__ if each in self._rows)
        rule = row if isinstance(row, ErrorRule) else row(error)
        return rule if rule.message else msgspec.structs.replace(rule, message=error.message)


class InternalError(EngineFailed):
    """A defect of the server, not of the engine. The log has the reason, and the client learns nothing of it."""

    def __init__(self) -> None:
        super().__init__("An internal error occurred")


class FailureContext(NamedTuple):
    """How a request is answered that fails unexpectedly."""

    errors: ErrorRenderer
    request_id: str
    """For the log."""
    headers: Mapping[str, str] = {}

    @classmethod
    def of(cls, scope: Scope) -> "FailureContext | None":
        """Return the context of a request; None: no route with one has begun with it."""
        found: FailureContext | None = scope.get(FAILURE_CONTEXT)
        return found


def error_headers(error: DragomanError) -> dict[str, str]:
    """Return the headers that most dialects add to an error: when to retry, how to send a key or a body."""
    match error:
        case RateLimited():
            wait = min(error.retry_after, _MAX_RATE_LIMIT_WAIT_SECONDS)
            return {"retry-after": str(wait), **rate_limit_headers(error.allowances)}
        case SubmissionUnconfirmed():
            return {"retry-after": str(error.retry_after), **NOT_AGAIN}
        case Overloaded() | Limited():
            return {"retry-after": str(error.retry_after)}
        case Unauthenticated():
            return {"www-authenticate": "Bearer"}
        case UnsupportedEncoding():
            return {"accept-encoding": ", ".join(error.accepted)}  # RFC 9110, section 15.5.16.
        case IdempotencyConflict() | RequestTimedOut():
            # The libraries of OpenAI, Anthropic and Scale retry 408 and 409 unless told not to. The first is the end of
            # the time that the client gave, and every further attempt would take as long.
            return dict(NOT_AGAIN)
        case _:
            return {}


_RATE_LIMIT_HEADERS = [
    tuple(f"x-ratelimit-{name}-{kind}" for name in ("limit", "remaining", "reset")) for kind in ("requests", "tokens")
]


def rate_limit_headers(allowances: Allowances) -> dict[str, str]:
    """Return what a key has left of its limits per minute, in OpenAI's headers."""
    headers = {}
    for (limit, remaining, reset), allowance in zip(_RATE_LIMIT_HEADERS, allowances, strict=True):
        if allowance is not None:
            headers[limit] = str(allowance.limit)
            headers[remaining] = str(allowance.remaining)
            headers[reset] = f"{allowance.resets_in}s"
    return headers


def error_response(rendered: ErrorResponse, headers: Mapping[str, str]) -> Response:
    """Return an error as an HTTP response."""
    return Response(rendered.body, rendered.status, {**headers, **rendered.headers}, "application/json")


async def preceding_error(
    service: GenerationService, caller: Caller, error: DragomanError, model: str | None = None
) -> DragomanError:
    """Return the error to report: a caller without access learns that before a mistake in the body or the model.

    Only a request with such a mistake costs this extra check; others are checked when they are admitted.
    """
    if isinstance(error, BadRequest | BodyTooLarge | UnsupportedEncoding | ModelNotFound):
        try:
            await service.check_access(caller, model)
        except DragomanError as preceding:
            return preceding
    return error
