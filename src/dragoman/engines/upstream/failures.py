"""What a failed request to an upstream means: for its client, and for the choice of another replica."""

import re
from typing import Any

import msgspec

from dragoman.core.errors import (
    BadRequest,
    ContextOverflow,
    DragomanError,
    ReplicaFault,
    UpstreamFailed,
    UpstreamUnavailable,
)
from dragoman.engines.upstream.transport_errors import (
    ConnectFailed,
    TransportError,
    UpstreamDisconnected,
    UpstreamStatus,
    UpstreamTimeout,
)

MAX_MESSAGE_CHARACTERS = 500
"""Of an upstream's own words about a request."""

_LIMITED = 429
_UNAVAILABLE = 503

_CONTEXT_LENGTH = re.compile(r"context length is (?:only )?(\d+)")
_ENVELOPES = re.compile(r"^(?:litellm\.\w+: )+")
"""What LiteLLM, and a dragoman that speaks as it does, put before a message."""

_NUMBER = re.compile(r"\d+")


class _ErrorDetails(msgspec.Struct):
    message: str = ""
    n_prompt_tokens: int | None = None
    """llama.cpp's server, of a prompt that is too long; with the next one."""
    n_ctx: int | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorDetails | str = ""
    message: str = ""
    detail: Any = None


def error_of(failure: TransportError, *, has_output: bool) -> DragomanError:
    """Return the error of a request whose attempt failed so, before or after the first event of its answer."""
    if has_output:
        fault: ReplicaFault = "timed_out" if isinstance(failure, UpstreamTimeout) else "failed"
        return UpstreamFailed("The upstream failed while it was answering", fault)
    match failure:
        case UpstreamStatus(may_retry=False, failure=None):
            return _refusal(failure.body)
        case UpstreamStatus(status=status, retry_after=seconds) if status == _LIMITED:
            return UpstreamUnavailable("The upstream is rate limited", "limited", seconds or 1.0)
        case UpstreamStatus(may_retry=False):
            return UpstreamFailed(f"The upstream answered with status {failure.status}, and not to try again")
        case UpstreamStatus(failure="configuration"):
            return UpstreamUnavailable("The upstream refuses access or knows no such model", "configuration")
        case UpstreamStatus(status=status, retry_after=seconds):
            overloaded_for = (seconds or 0.0) if status == _UNAVAILABLE else 0.0
            return UpstreamUnavailable(f"The upstream answered with status {status}", retry_after=overloaded_for)
        case ConnectFailed():
            return UpstreamUnavailable("The upstream cannot be reached", "refused")
        case UpstreamTimeout():
            return UpstreamUnavailable("The upstream did not answer in time", "timed_out")
        case UpstreamDisconnected():
            return UpstreamUnavailable("The upstream closed the connection")
    return UpstreamUnavailable("The upstream's response is malformed")


def _refusal(body: bytes) -> BadRequest:
    """Return the upstream's reason for refusing a request: it has read the request, and nobody else can say more."""
    try:
        parsed = msgspec.json.decode(body, type=_ErrorBody)
    except msgspec.MsgspecError:
        parsed = _ErrorBody()
    details = _ErrorDetails(parsed.error) if isinstance(parsed.error, str) else parsed.error
    if details.n_prompt_tokens is not None and details.n_ctx is not None:
        return ContextOverflow(details.n_prompt_tokens, details.n_ctx, "Shorten the prompt.")
    text = details.message or parsed.message or (parsed.detail if isinstance(parsed.detail, str) else "")
    if (found := _CONTEXT_LENGTH.search(text)) is not None:
        context_length = int(found[1])
        largest = max(map(int, _NUMBER.findall(text)))
        return ContextOverflow(max(largest, context_length), context_length, "Shorten the prompt.", at_least=True)
    shown = _ENVELOPES.sub("", " ".join(text.split()))[:MAX_MESSAGE_CHARACTERS]
    return BadRequest(shown or "The model's server refused the request")
