"""The HTTP client of one upstream in one process: a pool of connections, and time limits on all that is awaited."""

import asyncio
import contextlib
import math
import os
import socket
import ssl
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from dragoman.core.secret_text import SecretText
from dragoman.engines.upstream.connection import Connection
from dragoman.engines.upstream.event_stream import MAX_EVENT_BYTES, EventStreamParser, ReceivedEvent
from dragoman.engines.upstream.http_request import RequestSerializer, UpstreamAddress, UpstreamRequest
from dragoman.engines.upstream.time_limits import ResponseTimer, UpstreamTimeouts
from dragoman.engines.upstream.transport_errors import (
    BrokenResponse,
    ConnectFailed,
    TransportError,
    UpstreamDisconnected,
    UpstreamStatus,
    UpstreamTimeout,
    WrongContentType,
)

MAX_CONNECTIONS = 100

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Of a response that is no stream."""

MAX_ERROR_BYTES = 64 * 1024
"""Of the body of an error. The rest is not read."""

MAX_ERROR_SECONDS = 5.0
"""For the body of an error. What has arrived by then is used."""

IDLE_SECONDS = 30.0
"""After this time, an idle connection is closed."""

MAX_RETRY_AFTER_SECONDS = 3_600.0


class ReceivedStream:
    """The events of one response, within its time limits."""

    def __init__(self, connection: Connection, timer: ResponseTimer) -> None:
        self._connection = connection
        self._timer = timer
        self._parser = EventStreamParser(MAX_EVENT_BYTES)

    def note_token(self) -> None:
        """Note that the last event has a token: until the first one the limit is `first_token`, then the next."""
        self._timer.note_token()

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
    ) -> None:
        """`key_header`: `authorization`, with `Bearer`, or another header for the key alone.

        `tls` None: trust the system's certificates. Raises ValueError if the key cannot be sent in a header.
        """
        self._address = address
        self._serializer = RequestSerializer(address, key, key_header)
        self._key = key
        self._timeouts = timeouts or UpstreamTimeouts()
        self._tls = (tls or ssl.create_default_context()) if address.scheme == "https" else None
        self._places = asyncio.Semaphore(max_connections)
        self._connections: set[Connection] = set()
        self._idle: dict[Connection, asyncio.TimerHandle] = {}

    @property
    def open_connections(self) -> int:
        """How many connections are open, the idle ones included."""
        return len(self._connections)

    @contextlib.asynccontextmanager
    async def stream(self, request: UpstreamRequest) -> AsyncGenerator[ReceivedStream]:
        """Send a request whose response is a stream of events. The block's end closes an incomplete one at once.

        Raises TransportError, as the stream does.
        """
        connection, timer = await self._begin(request, accept="text/event-stream")
        try:
            media_type = connection.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
            if media_type != b"text/event-stream":
                raise WrongContentType(await self._read_error(connection))
            yield ReceivedStream(connection, timer)
        finally:
            self._end(connection, timer)

    async def fetch(self, request: UpstreamRequest, *, max_bytes: int = MAX_BODY_BYTES) -> bytes:
        """Send a request and return the body of the response. Raises TransportError."""
        connection, timer = await self._begin(request, accept="application/json")
        try:
            body = bytearray()
            while chunk := await connection.read():
                body += chunk
                if len(body) > max_bytes:
                    raise BrokenResponse(f"the body of the response has more than {max_bytes} bytes")
            return bytes(body)
        finally:
            self._end(connection, timer)

    def close(self) -> None:
        """Close all connections at once, those in use included."""
        for connection in list(self._connections):
            connection.close()

    async def _begin(self, request: UpstreamRequest, *, accept: str) -> tuple[Connection, ResponseTimer]:
        """Send a request and wait for the head of a response with status 2xx. `_end` must follow."""
        message = self._serializer.serialize(request, accept)
        timer = ResponseTimer(self._timeouts, request.deadline, is_stream=accept == "text/event-stream")
        await self._take_place(timer)
        connection: Connection | None = None
        try:
            connection = self._take_idle() or await self._connect(timer)
            try:
                await self._send(connection, message, timer)
            except UpstreamDisconnected as error:
                # An upstream that closes an idle connection has not read a request that crosses the closing.
                if error.has_response or not connection.is_reused:
                    raise
                connection = await self._connect(timer)
                await self._send(connection, message, timer)
            if b"content-encoding" in connection.headers:
                raise BrokenResponse("the body of the response is compressed, which was not asked for")
            if connection.status // 100 != 2:
                raise await self._status_error(connection)
        except BaseException:
            self._end(connection, timer)
            raise
        return connection, timer

    def _end(self, connection: Connection | None, timer: ResponseTimer) -> None:
        timer.stop()
        if connection is not None:
            self._put_back(connection)
        self._places.release()

    async def _take_place(self, timer: ResponseTimer) -> None:
        """Wait for the right to use a connection."""
        if not self._places.locked():
            await self._places.acquire()
            return
        try:
            async with asyncio.timeout(timer.connect_seconds()):
                await self._places.acquire()
        except TimeoutError:
            raise UpstreamTimeout("connect") from None

    async def _connect(self, timer: ResponseTimer) -> Connection:
        loop, address = asyncio.get_running_loop(), self._address
        connection = Connection(self._forget)
        try:
            async with asyncio.timeout(timer.connect_seconds()):
                if address.scheme == "unix":
                    await loop.create_unix_connection(lambda: connection, address.path)
                else:
                    await loop.create_connection(lambda: connection, address.host, address.port, ssl=self._tls)
        except TimeoutError:
            raise UpstreamTimeout("connect") from None
        except OSError as error:
            raise ConnectFailed(_reason(error)) from None
        self._connections.add(connection)
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
        connection, timer = self._idle.popitem()
        timer.cancel()
        return connection

    def _put_back(self, connection: Connection) -> None:
        if connection.can_be_reused:
            self._idle[connection] = asyncio.get_running_loop().call_later(IDLE_SECONDS, connection.close)
        else:
            connection.close()

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if (timer := self._idle.pop(connection, None)) is not None:
            timer.cancel()

    async def _status_error(self, connection: Connection) -> UpstreamStatus:
        return UpstreamStatus(
            connection.status,
            await self._read_error(connection),
            retry_after=_retry_after(connection.headers.get(b"retry-after", b"")),
            should_retry={b"true": True, b"false": False}.get(connection.headers.get(b"x-should-retry", b"").lower()),
        )

    async def _read_error(self, connection: Connection) -> bytes:
        """Return the beginning of the body. The key is removed: some servers repeat one that they refuse."""
        body = bytearray()
        with contextlib.suppress(TimeoutError, TransportError):
            async with asyncio.timeout(MAX_ERROR_SECONDS):
                while len(body) < MAX_ERROR_BYTES and (chunk := await connection.read()):
                    body += chunk
        if self._key is not None:
            body = body.replace(self._key.reveal().encode(), b"[key]")
        return bytes(body[:MAX_ERROR_BYTES])


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
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(MAX_RETRY_AFTER_SECONDS, max(0.0, seconds)) if math.isfinite(seconds) else None
