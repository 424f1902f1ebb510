"""One HTTP/1.1 connection to an upstream: a request at a time, and its response as it arrives.

httptools parses, in the callback in which bytes arrive. Nothing is awaited for a byte but the reader's own wait, and
closing is immediate. This is why dragoman has a connection of its own: benchmarks/README.md has the comparison.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from dragoman.engines.upstream.transport_errors import BrokenResponse, TransportError, UpstreamDisconnected

MAX_HEAD_BYTES = 64 * 1024
"""The status line and headers of a response, with all interim responses before it."""

MAX_UNREAD_BYTES = 256 * 1024
"""Beyond, nothing more is read from the upstream until the reader has caught up."""

_FIRST_FINAL_STATUS = 200


class Connection(asyncio.Protocol):
    """Implements asyncio.Protocol. `send` begins an exchange, which is over when `is_complete`."""

    def __init__(self, on_close: Callable[["Connection"], None]) -> None:
        """`on_close` is called once, when the connection can no longer be used."""
        self.is_closed = False
        self.is_reused = False
        self.last_data_at = 0.0
        """When bytes arrived last, in the event loop's time."""
        self._loop = asyncio.get_running_loop()
        self._on_close = on_close
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None
        self._begin_exchange()

    def _begin_exchange(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.has_response = False
        """Whether a byte of the response has arrived."""
        self.is_complete = False
        """Whether the response has arrived as a whole."""
        self.error: TransportError | None = None
        self._is_paused = False
        self._keeps_alive = False
        self._has_head = False
        self._head_bytes = 0
        self._chunks: list[bytes] = []
        self._unread_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._parser = httptools.HttpResponseParser(self)

    @property
    def can_be_reused(self) -> bool:
        """Whether another request can be sent after this exchange."""
        return self.is_complete and self._keeps_alive and not self.is_closed and not self._is_paused

    @property
    def sent_ago(self) -> float:
        """The seconds since a request was sent last."""
        return self._loop.time() - self._sent_at

    @property
    def waits_for_reader(self) -> bool:
        """Whether a part of the body has arrived and its reader is busy with something else."""
        return bool(self._chunks) and self._waiter is None

    def send(self, request: bytes) -> None:
        """Send a request, head and body. The exchange before must be over."""
        self.is_reused = self.is_complete
        self._begin_exchange()
        self._sent_at = self._loop.time()
        if self._transport is None or self.is_closed:
            self._fail(UpstreamDisconnected("the connection was closed while it was idle", has_response=False))
        else:
            self._transport.write(request)

    async def read_head(self) -> None:
        """Wait until `status` and `headers` are there. Raises TransportError."""
        while not self._has_head:
            await self._wait()

    async def read(self) -> bytes:
        """Return the next part of the body; empty at its end. Raises TransportError."""
        while not self._chunks and not self.is_complete:
            await self._wait()
        if len(self._chunks) == 1:
            body = self._chunks.pop()
        else:
            body = b"".join(self._chunks)
            self._chunks.clear()
        self._unread_bytes = 0
        if self._is_paused and self._transport is not None and not self.is_closed:
            self._is_paused = False
            self._transport.resume_reading()
        return body

    def fail(self, error: TransportError) -> None:
        """Close the connection at once. The reader gets the error."""
        self._fail(error)

    def close(self) -> None:
        """Close the connection at once, whatever is under way."""
        if not self.is_closed:
            self.is_closed = True
            if self._transport is not None:
                self._transport.abort()
            self._on_close(self)

    async def _wait(self) -> None:
        if self.error is not None:
            raise self.error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: TransportError) -> None:
        if self.error is None and not self.is_complete:
            self.error = error
        self.close()
        self._wake()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass

    def data_received(self, data: bytes) -> None:
        self.last_data_at = self._loop.time()
        self.has_response = True
        if not self._has_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, httptools.HttpParserCallbackError):
            self._fail(BrokenResponse("the response is no HTTP"))
            return
        if not self._has_head and self._head_bytes > MAX_HEAD_BYTES:
            self._fail(BrokenResponse(f"the head of the response has more than {MAX_HEAD_BYTES} bytes"))
            return
        self._wake()

    def eof_received(self) -> bool:
        """Note the end. A body without a length is complete."""
        if self._has_head and not self.is_complete and not self._has_length:
            self.is_complete = True
        return False

    def connection_lost(self, _exception: Exception | None) -> None:
        self._fail(UpstreamDisconnected("the connection was closed", has_response=self.has_response))
        del self._parser  # It refers to this connection: nothing is left to the garbage collector.

    # httptools' callbacks

    def on_message_begin(self) -> None:
        """Refuse a response that nobody asked for."""
        if self.is_complete:
            raise BrokenResponse("a second response to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header of the response, or a trailer, which is dropped."""
        if not self._has_head:
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Take the head, unless it is that of an interim response."""
        status = self._parser.get_status_code()
        if status < _FIRST_FINAL_STATUS:
            self.headers.clear()
            return
        self.status = status
        self._has_head = True

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._chunks.append(body)
        self._unread_bytes += len(body)
        if self._unread_bytes > MAX_UNREAD_BYTES and self._transport is not None and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """End the response, unless it is an interim one."""
        if self._has_head:
            self.is_complete = True
            self._keeps_alive = self._parser.should_keep_alive()

    @property
    def _has_length(self) -> bool:
        return b"content-length" in self.headers or b"transfer-encoding" in self.headers
