"""What a failed request to an upstream means: for its client, and for the choice of another replica."""

import re
from typing import Any

import msgspec

from dragoman.core.errors import (
    BadRequest,
    ContextOverflow,
    DragomanError,
    Overloaded,
    ReplicaFault,
    UpstreamFailed,
    UpstreamUnavailable,
)
from dragoman.engines.upstream.replies import decode_reply
from dragoman.engines.upstream.transport_errors import (
    ConnectFailed,
    LocalShortage,
    TransportError,
    UpstreamDisconnected,
    UpstreamStatus,
    UpstreamTimeout,
    WrongContentType,
)

MAX_MESSAGE_CHARACTERS = 500
"""Of an upstream's own words about a request."""

_LIMITED = 429
_UNAVAILABLE = 503
_FORBIDDEN = 403
_PAYMENT_REQUIRED = 402
_NO_CREDIT = ("insufficient_quota", "billing_not_active", "exceeded_current_quota_error")
"""`code` or `type` of OpenAI, of those that speak as it does, and of Moonshot."""
_SHORTAGE_RETRY_SECONDS = 1
_ERROR_STATUS = re.compile(r"[45]\d\d")

_CONTEXT_LENGTH = re.compile(r"(?:context length(?: is| of)?(?: only)?|configured limit of) \(?(\d{1,15})\b")
"""In the words of vLLM, SGLang and OpenAI."""

_ENVELOPES = re.compile(r"^(?:litellm\.\w+: )+")
"""What LiteLLM, and a dragoman that speaks as it does, put before a message."""

_FIELD, _CODE = re.compile(r"[\w.\[\]-]{1,200}"), re.compile(r"[A-Za-z]\w{0,63}")
"""A status as a text is no code."""

_NUMBER = re.compile(r"\b\d{1,15}\b")


class _ErrorDetails(msgspec.Struct):
    message: str | None = None
    code: Any = None
    """A status, a text or null."""
    type: Any = None
    param: Any = None
    n_prompt_tokens: int | None = None
    """llama.cpp's server, of a prompt that is too long; with the next one."""
    n_ctx: int | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorDetails | str | None = None
    message: str | None = None
    code: Any = None
    detail: Any = None

    @property
    def details(self) -> _ErrorDetails:
        """What is said of the error, wherever it stands."""
        return self.error if isinstance(self.error, _ErrorDetails) else _ErrorDetails(self.error, self.code)


_decode = msgspec.json.Decoder(_ErrorBody).decode


def error_of(failure: TransportError, *, has_output: bool) -> DragomanError:
    """Return the error of a request whose attempt failed so, before or after the first event of its answer."""
    if has_output:
        fault: ReplicaFault = "timed_out" if isinstance(failure, UpstreamTimeout) else "failed"
        return UpstreamFailed("The upstream failed while it was answering", fault)
    match failure:
        case UpstreamStatus(refuses_request=True):
            return _refusal(failure.body)
        case UpstreamStatus() if _says_no_credit(failure):
            return UpstreamUnavailable("This server's account at the upstream has no credit or quota left", "exhausted")
        case UpstreamStatus(may_retry=False):
            return UpstreamFailed(f"The upstream answered with status {failure.status}, and not to try again")
        case UpstreamStatus(status=status, retry_after=seconds) if status == _LIMITED:
            return UpstreamUnavailable("The upstream is rate limited", "limited", seconds or 1.0)
        case UpstreamStatus(failure="configuration"):
            return UpstreamUnavailable("The upstream refuses access or knows no such model", "configuration")
        case UpstreamStatus(status=status, retry_after=seconds):
            overloaded_for = (seconds or 0.0) if status == _UNAVAILABLE else 0.0
            return UpstreamUnavailable(f"The upstream answered with status {status}", retry_after=overloaded_for)
        case LocalShortage():
            return Overloaded("This server has no connection to the upstream left", _SHORTAGE_RETRY_SECONDS)
        case ConnectFailed():
            return UpstreamUnavailable("The upstream cannot be reached", "refused")
        case UpstreamTimeout():
            return UpstreamUnavailable("The upstream did not answer in time", "timed_out")
        case UpstreamDisconnected():
            return UpstreamUnavailable("The upstream closed the connection")
        case WrongContentType():
            return reported_error(failure.body)
    return UpstreamUnavailable("The upstream's response is malformed")


def reported_error(report: bytes) -> DragomanError:
    """Return the error that an upstream reports behind a status of success, before the first event of an answer."""
    code = _parsed(report).details.code
    if isinstance(code, int | str) and (status := _ERROR_STATUS.fullmatch(str(code))) is not None:
        return error_of(UpstreamStatus(int(status[0]), report), has_output=False)
    return UpstreamUnavailable("The upstream reports an error, or something else, instead of an answer")


def requires_completion_limit(failure: UpstreamStatus) -> bool:
    """Whether OpenAI says that the model takes `max_completion_tokens` and not `max_tokens`.

    Its words are not looked at: they may repeat those of a client.
    """
    if not failure.refuses_request:
        return False
    details = _parsed(failure.body).details
    return (details.param, details.code) == ("max_tokens", "unsupported_parameter")


def _says_no_credit(failure: UpstreamStatus) -> bool:
    if failure.status == _PAYMENT_REQUIRED:
        return True
    details = _parsed(failure.body).details
    return failure.status in (_LIMITED, _FORBIDDEN) and (details.code in _NO_CREDIT or details.type in _NO_CREDIT)


def _parsed(body: bytes) -> _ErrorBody:
    try:
        return decode_reply(_decode, body)
    except msgspec.MsgspecError:
        return _ErrorBody()


def _refusal(body: bytes) -> BadRequest:
    """Return the upstream's reason for refusing a request: it has read the request, and nobody else can say more."""
    parsed = _parsed(body)
    details = parsed.details
    if details.n_prompt_tokens is not None and details.n_ctx is not None:
        return ContextOverflow(details.n_prompt_tokens, details.n_ctx, "Shorten the prompt.")
    text = details.message or parsed.message or (parsed.detail if isinstance(parsed.detail, str) else "")
    if (found := _CONTEXT_LENGTH.search(text)) is not None:
        context_length = int(found[1])
        largest = max(map(int, _NUMBER.findall(text)))
        return ContextOverflow(max(largest, context_length), context_length, "Shorten the prompt.", at_least=True)
    shown = _ENVELOPES.sub("", " ".join(text.split()))[:MAX_MESSAGE_CHARACTERS]
    parameter = details.param if isinstance(details.param, str) and _FIELD.fullmatch(details.param) else None
    refusal = BadRequest(shown or "The model's server refused the request", parameter)
    if isinstance(details.code, str) and _CODE.fullmatch(details.code):
        refusal.code = details.code
    return refusal
