"""The time limits of a request to an upstream."""

import asyncio

import msgspec

from dragoman.engines.upstream.connection import Connection
from dragoman.engines.upstream.transport_errors import TimeLimit, UpstreamTimeout

END_SECONDS = 1.0
"""For the end of a response behind its last event. Without it, its connection cannot be used again."""


class UpstreamTimeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Time limits in seconds."""

    connect: float = 2.0
    """For a connection, or a free place among the connections."""
    first_token: float = 120.0
    """From the request to the first token; to the first byte of what is no stream, as of embeddings."""
    between_tokens: float = 60.0
    """Without a byte. Keep-alive comments extend it, but not beyond `first_token` from token to token."""
    total: float = 3600.0


class ResponseTimer:
    """Fails a connection when its response takes too long.

    It is one timer per response, which looks at the clock when it fires: tokens move no timer.
    """

    def __init__(self, timeouts: UpstreamTimeouts, deadline: float, *, is_stream: bool) -> None:
        """The time of all limits begins now. What is no stream has bytes instead of tokens."""
        self._timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._end_at = min(deadline, self._started_at + timeouts.total)
        self._is_stream = is_stream
        self._last_token_at: float | None = None
        self._connection: Connection | None = None
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, connection: Connection) -> None:
        """Watch this connection, instead of the one before, until `stop`."""
        self._connection = connection
        self._check()

    def note_token(self) -> None:
        """Note that a token has arrived."""
        self._last_token_at = self._loop.time()

    def note_last_event(self) -> None:
        """Note that nothing is to follow but the end of the response."""
        self._end_at = min(self._end_at, self._loop.time() + END_SECONDS)
        self._check()

    def connect_seconds(self) -> float:
        """Return how long a connection may take now."""
        return min(self._timeouts.connect, self._end_at - self._loop.time())

    def stop(self) -> None:
        """Watch nothing any more."""
        self._connection = None
        if self._timer is not None:
            self._timer.cancel()

    def _check(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if (connection := self._connection) is None:
            return
        ends_at, limit = self._next_limit(connection)
        if limit != "total" and connection.waits_for_reader:
            # The reader is slow, not the upstream.
            ends_at = max(ends_at, self._loop.time() + self._timeouts.between_tokens)
        if (now := self._loop.time()) >= ends_at:
            connection.fail(UpstreamTimeout(limit))
            return
        if self._last_token_at is None:
            # The first token may arrive meanwhile, and the limit behind it is sooner.
            ends_at = min(ends_at, now + self._timeouts.between_tokens)
        self._timer = self._loop.call_at(ends_at, self._check)

    def _next_limit(self, connection: Connection) -> tuple[float, TimeLimit]:
        limit: TimeLimit
        if self._last_token_at is not None:
            last_data_at = max(connection.last_data_at, self._last_token_at)
            silence = last_data_at + self._timeouts.between_tokens
            ends_at, limit = min(silence, self._last_token_at + self._timeouts.first_token), "between_tokens"
        elif not self._is_stream and connection.has_response:
            ends_at, limit = connection.last_data_at + self._timeouts.between_tokens, "between_tokens"
        else:
            ends_at, limit = self._started_at + self._timeouts.first_token, "first_token"
        return (ends_at, limit) if ends_at <= self._end_at else (self._end_at, "total")
