"""How a request to an upstream can fail before its answer is understood.

TransportError
├── LocalShortage          this process has no connection or descriptor left. The upstream was not asked
├── ConnectFailed          no connection: refused, unreachable, unknown name, TLS. Nothing was sent
├── UpstreamDisconnected   closed or reset before the response was complete
├── UpstreamTimeout        the upstream took longer than one of the time limits
├── UpstreamStatus         a status other than 2xx, redirects included
└── BrokenResponse         no HTTP, no stream of events, or more than an upstream may send
    └── WrongContentType

Their texts hold no address, no key and nothing that the upstream sent: they may be logged.
"""

from typing import Literal

TimeLimit = Literal["connect", "first_token", "between_tokens", "total"]


Failure = Literal["failed", "refused", "configuration"]
"""What an error says about an upstream's health: it did not do its work, nobody listens, or its settings are wrong."""

NOT_FOUND = 404

MISSING_ROUTE = frozenset({NOT_FOUND, 405, 501})
"""Statuses of a route that a server does not have, or a proxy before it does not pass on."""

_WRONG_CONFIGURATION = frozenset({401, 403, NOT_FOUND})
_WRONG_REQUEST = frozenset({400, 405, 409, 411, 413, 414, 415, 422})


class TransportError(Exception):
    """Base of all. Whether a token had arrived before is what the caller knows: then nothing is tried again."""

    failure: Failure | None = "failed"
    """None: it says nothing about the upstream's health."""
    may_retry = True
    """Whether another upstream may answer. The same one may, too, if `failure` is no configuration."""


class LocalShortage(TransportError):
    """This process or its system has nothing left to connect with: no connection, descriptor, port or memory."""

    failure = None


class ConnectFailed(TransportError):
    """No connection was established, and nothing was sent."""

    failure = "refused"


class UpstreamDisconnected(TransportError):
    """The connection was closed or reset before the response was complete."""

    def __init__(self, message: str, *, has_response: bool) -> None:
        """`has_response`: whether a byte of the response had arrived."""
        super().__init__(message)
        self.has_response = has_response


class UpstreamTimeout(TransportError):
    """The upstream took longer than a time limit."""

    def __init__(self, limit: TimeLimit) -> None:
        super().__init__(f"time limit {limit} passed")
        self.limit = limit


class UpstreamStatus(TransportError):
    """The upstream answered with a status other than 2xx."""

    def __init__(
        self, status: int, body: bytes = b"", *, retry_after: float | None = None, should_retry: bool | None = None
    ) -> None:
        """`body` is the beginning of the response's body, without the upstream's key.

        `retry_after` is in seconds, `should_retry` the header `x-should-retry`. None: the upstream does not say.
        """
        super().__init__(f"status {status}")
        self.status = status
        self.body = body
        self.retry_after = retry_after
        self.failure = _failure(status)
        self.refuses_request = status in _WRONG_REQUEST
        """Whether it says that the request is wrong, for every server."""
        self.may_retry = should_retry is not False and not self.refuses_request


class BrokenResponse(TransportError):
    """The response is not what HTTP, server-sent events or the limits allow."""


class WrongContentType(BrokenResponse):
    """A response with status 200 is no stream of events. Some servers send errors like that."""

    def __init__(self, body: bytes) -> None:
        """`body` is its beginning."""
        super().__init__("the response is no stream of events")
        self.body = body


def _failure(status: int) -> Failure | None:
    """Return what a status says of the upstream. A redirect comes from a wrong URL; 429 is no failure."""
    if status < 400 or status in _WRONG_CONFIGURATION:
        return "configuration"
    return "failed" if status >= 500 or status == 408 else None
