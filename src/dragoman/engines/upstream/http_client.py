"""The HTTP client of one upstream in one process: a pool of connections, and time limits on all that is awaited."""

import asyncio
import contextlib
import errno
import math
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self

from dragoman.core.secret_text import SecretText
from dragoman.engines.upstream.connecting import Resolve, connect_to_any, resolve_by_system
from dragoman.engines.upstream.connection import Connection
from dragoman.engines.upstream.event_stream import MAX_EVENT_BYTES, EventStreamParser, ReceivedEvent
from dragoman.engines.upstream.http_request import RequestSerializer, UpstreamAddress, UpstreamRequest
from dragoman.engines.upstream.time_limits import ResponseTimer, UpstreamTimeouts
from dragoman.engines.upstream.transport_errors import (
    BrokenResponse,
    ConnectFailed,
    LocalShortage,
    TransportError,
    UpstreamDisconnected,
    UpstreamStatus,
    UpstreamTimeout,
    WrongContentType,
)

MAX_CONNECTIONS = 100

_EVENT_STREAM = "text/event-stream"

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Of a response that is no stream."""

MAX_ERROR_BYTES = 64 * 1024
"""Of the body of an error. The rest is not read."""

MAX_ERROR_SECONDS = 5.0
"""For the body of an error. What has arrived by then is used."""

IDLE_SECONDS = 30.0
"""After this time, an idle connection is closed."""

CROSSING_SECONDS = 1.0
"""In which a request may meet an upstream that is closing its connection. One that is lost later was being answered."""

MAX_RETRY_AFTER_SECONDS = 3_600.0

_LOCAL_SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL))
"""Of a failed connect(): they say nothing about the other side. EADDRNOTAVAIL: all local ports are in use."""


class ReceivedStream:
    """The events of one response, within its time limits, in an `async with` block."""

    note_token: Callable[[], None]
    """Notes that the last event has a token: until the first one the limit is `first_token`, then the next."""
    note_last_event: Callable[[], None]
    """Notes that nothing is to follow but the end of the response."""

    def __init__(self, client: "UpstreamClient", request: UpstreamRequest) -> None:
        self._client = client
        self._request = request
        self._parser = EventStreamParser(MAX_EVENT_BYTES)

    async def __aenter__(self) -> Self:
        self._connection, self._timer = await self._client.begin(self._request, accept=_EVENT_STREAM)
        self.note_token = self._timer.note_token
        self.note_last_event = self._timer.note_last_event
        try:
            await self._client.require_events(self._connection)
        except BaseException:
            self._client.end(self._connection, self._timer)
            raise
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._client.end(self._connection, self._timer)

    async def read(self) -> list[ReceivedEvent]:
        """Wait for events and return all that have arrived; empty: the response has ended. Raises TransportError."""
        while chunk := await self._connection.read():
            if events := self._parser.feed(chunk):
                return events
        return self._parser.finish()


class UpstreamClient:
    """Sends requests to one upstream. Close it at the end."""

    def __init__(
        self,
        address: UpstreamAddress,
        *,
        key: SecretText | None = None,
        key_header: str = "authorization",
        timeouts: UpstreamTimeouts | None = None,
        max_connections: int = MAX_CONNECTIONS,
        tls: ssl.SSLContext | None = None,
        idle_seconds: float = IDLE_SECONDS,
        crossing_seconds: float = CROSSING_SECONDS,
        resolve: Resolve = resolve_by_system,
    ) -> None:
        """`key_header`: `authorization`, with `Bearer`, or another header for the key alone.

        `tls` None: trust the system's certificates. Connections that are idle for `idle_seconds` are closed. Raises
        ValueError if the key cannot be sent in a header.
        """
        self._address = address
        self._serializer = RequestSerializer(address, key, key_header)
        self._key = key
        self._timeouts = timeouts or UpstreamTimeouts()
        self._tls = (tls or ssl.create_default_context()) if address.scheme == "https" else None
        self._places = asyncio.Semaphore(max_connections)
        self._connections: set[Connection] = set()
        self._idle_seconds = idle_seconds
        self._crossing_seconds = crossing_seconds
        self._resolve = resolve
        self._idle: dict[Connection, float] = {}
        """Since when, in the event loop's time; the longest first."""
        self._idle_timer: asyncio.TimerHandle | None = None

    @property
    def open_connections(self) -> int:
        """How many connections are open, the idle ones included."""
        return len(self._connections)

    def stream(self, request: UpstreamRequest) -> ReceivedStream:
        """Send a request whose response is a stream of events. The block's end closes an incomplete one at once.

        The block raises TransportError when it begins, as the stream does.
        """
        return ReceivedStream(self, request)

    async def require_events(self, connection: Connection) -> None:
        """Raise WrongContentType, with the beginning of the body, unless the response is a stream of events."""
        media_type = connection.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if media_type != b"text/event-stream":
            raise WrongContentType(await self._read_error(connection))

    async def fetch(self, request: UpstreamRequest, *, max_bytes: int = MAX_BODY_BYTES) -> bytes:
        """Send a request and return the body of the response. Raises TransportError."""
        connection, timer = await self.begin(request, accept="application/json")
        try:
            body = bytearray()
            while chunk := await connection.read():
                body += chunk
                if len(body) > max_bytes:
                    raise BrokenResponse(f"the body of the response has more than {max_bytes} bytes")
            return bytes(body)
        finally:
            self.end(connection, timer)

    def without_key(self, received: bytes) -> bytes:
        """Return what the upstream sent without its key."""
        return received if self._key is None else received.replace(self._key.reveal().encode(), b"[key]")

    def close(self) -> None:
        """Close all connections at once, those in use included."""
        for connection in list(self._connections):
            connection.close()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    async def begin(self, request: UpstreamRequest, *, accept: str) -> tuple[Connection, ResponseTimer]:
        """Send a request and wait for the head of a response with status 2xx. `end` must follow."""
        message = self._serializer.serialize(request, accept)
        timer = ResponseTimer(self._timeouts, request.deadline, is_stream=accept == _EVENT_STREAM)
        if self._places.locked():
            await self._wait_for_place(timer)
        else:
            await self._places.acquire()
        connection: Connection | None = None
        try:
            connection = self._take_idle() or await self._connect(timer)
            try:
                await self._send(connection, message, timer)
            except UpstreamDisconnected as error:
                # An upstream that closes an idle connection has not read a request that crosses the closing.
                is_crossing = connection.sent_ago < self._crossing_seconds
                if error.has_response or not connection.is_reused or not is_crossing:
                    raise
                connection = await self._connect(timer)
                await self._send(connection, message, timer)
            if connection.status // 100 != 2:
                raise await self._status_error(connection)
            if connection.headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
                raise BrokenResponse("the body of the response is compressed, which was not asked for")
        except BaseException:
            self.end(connection, timer)
            raise
        return connection, timer

    def end(self, connection: Connection | None, timer: ResponseTimer) -> None:
        """End an exchange. The connection is kept if its response is complete, or else closed at once."""
        timer.stop()
        if connection is not None:
            self._put_back(connection)
        self._places.release()

    async def _wait_for_place(self, timer: ResponseTimer) -> None:
        """Wait for the right to use a connection."""
        try:
            async with asyncio.timeout(timer.connect_seconds()):
                await self._places.acquire()
        except TimeoutError:
            raise LocalShortage("all connections to the upstream are in use") from None

    async def _connect(self, timer: ResponseTimer) -> Connection:
        seconds, address = timer.connect_seconds(), self._address
        try:
            async with asyncio.timeout(seconds):
                if address.scheme == "unix":
                    addresses: Sequence[str] = [address.path]
                else:
                    addresses = await self._resolve(address.host, address.port)
                connection = await connect_to_any(addresses, self._connect_to, seconds)
        except TimeoutError:
            raise UpstreamTimeout("connect") from None
        except OSError as error:
            if error.errno in _LOCAL_SHORTAGES:
                raise LocalShortage(f"no connection can be opened: {os.strerror(error.errno)}") from None
            raise ConnectFailed(_reason(error)) from None
        self._connections.add(connection)
        return connection

    async def _connect_to(self, address: str) -> Connection:
        loop, connection = asyncio.get_running_loop(), Connection(self._forget)
        if self._address.scheme == "unix":
            await loop.create_unix_connection(lambda: connection, address)
            return connection
        name = None if self._tls is None else self._address.host
        await loop.create_connection(
            lambda: connection, address, self._address.port, ssl=self._tls, server_hostname=name
        )
        return connection

    async def _send(self, connection: Connection, message: bytes, timer: ResponseTimer) -> None:
        """Send the request and wait for the head of the response."""
        connection.send(message)
        timer.watch(connection)
        await connection.read_head()

    def _take_idle(self) -> Connection | None:
        """Return the idle connection that was used last: the upstream will close it last."""
        if not self._idle:
            return None
        connection, _ = self._idle.popitem()
        return connection

    def _put_back(self, connection: Connection) -> None:
        if not connection.can_be_reused:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        self._idle[connection] = loop.time()
        if self._idle_timer is None:
            self._idle_timer = loop.call_later(self._idle_seconds, self._close_idle)

    def _close_idle(self) -> None:
        """Close the connections that are idle for too long, and look again when the next one may be."""
        loop = asyncio.get_running_loop()
        self._idle_timer = None
        while self._idle:
            connection, since = next(iter(self._idle.items()))
            if loop.time() < since + self._idle_seconds:
                self._idle_timer = loop.call_at(since + self._idle_seconds, self._close_idle)
                return
            del self._idle[connection]
            connection.close()

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._idle.pop(connection, None)

    async def _status_error(self, connection: Connection) -> UpstreamStatus:
        return UpstreamStatus(
            connection.status,
            await self._read_error(connection),
            retry_after=_retry_after(connection.headers.get(b"retry-after", b"")),
            should_retry={b"true": True, b"false": False}.get(connection.headers.get(b"x-should-retry", b"").lower()),
        )

    async def _read_error(self, connection: Connection) -> bytes:
        """Return the beginning of the body, without the key: some servers repeat one that they refuse."""
        body = bytearray()
        with contextlib.suppress(TimeoutError, TransportError):
            async with asyncio.timeout(MAX_ERROR_SECONDS):
                while len(body) < MAX_ERROR_BYTES and (chunk := await connection.read()):
                    body += chunk
        return self.without_key(bytes(body))[:MAX_ERROR_BYTES]


def _reason(error: OSError) -> str:
    """Describe why there is no connection, without the address that the texts of some errors contain."""
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason}"
    if isinstance(error, socket.gaierror):
        return "the host's name has no address"
    return os.strerror(error.errno) if error.errno else "no address of the host accepts connections"


def _retry_after(value: bytes) -> float | None:
    """Return the seconds of the header `retry-after`, which may also be a date. None: it is missing or malformed."""
    text = value.decode("latin-1").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(MAX_RETRY_AFTER_SECONDS, max(0.0, seconds)) if math.isfinite(seconds) else None
