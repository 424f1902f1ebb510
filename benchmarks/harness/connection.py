"""A minimal HTTP/1.1 client: one request at a time, its body passed on in pieces.

The clients share the machine with the measured servers, so time that they spend is missing there.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Self, cast
from urllib.parse import urlsplit

import httptools
import msgspec


class UnexpectedResponse(Exception):
    """A server's response cannot be measured."""


class _ClosedUnread(UnexpectedResponse):
    """A connection that had been used was closed before a response began."""


class Connection(asyncio.Protocol):
    """One TCP connection, kept alive as long as the server keeps it."""

    def __init__(self) -> None:
        self._url = ""
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._on_body: Callable[[bytes], None] = _ignore
        self._keeps_alive = True
        self._was_used = self._has_begun = False
        """Whether this connection has had a response, and whether that of the current request has begun."""
        self._is_open = False
        self._closing = 0
        """Earlier connections whose end was not reported yet."""
        self._response_status: asyncio.Future[int] | None = None

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to the host and port of `url`. Raises OSError or UnexpectedResponse."""
        connection = cls()
        connection._url = url
        await connection._connect()
        return connection

    async def _connect(self) -> None:
        address = urlsplit(self._url)
        if address.hostname is None or address.port is None:
            raise UnexpectedResponse(f"a server gave {self._url} as its address, which has no host or no port")
        if self._is_open:
            self._closing += 1
            self.close()
        self._parser = httptools.HttpResponseParser(self)
        self._keeps_alive = True
        await asyncio.get_running_loop().create_connection(lambda: self, address.hostname, address.port)

    async def send(self, request: bytes, on_body: Callable[[bytes], None]) -> None:
        """Send a whole request and pass the pieces of the response's body to `on_body`.

        Raises UnexpectedResponse unless the status is 200. Connects again if the server has said that it closes the
        connection, as llama-server does with every hundredth response.
        """
        if not self._keeps_alive:
            await self._connect()
        try:
            await self._exchange(request, on_body)
        except _ClosedUnread:
            # A server may close a connection that it kept while the next request is under way; it has not read that.
            await self._connect()
            await self._exchange(request, on_body)

    async def _exchange(self, request: bytes, on_body: Callable[[bytes], None]) -> None:
        self._on_body = on_body
        self._has_begun = False
        self._response_status = asyncio.get_running_loop().create_future()
        assert self._transport is not None, "set by connection_made"
        self._transport.write(request)
        if (status := await self._response_status) != 200:
            raise UnexpectedResponse(f"a server answered with status {status}")

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._is_open = True
        self._was_used = False

    def data_received(self, data: bytes) -> None:
        self._has_begun = self._was_used = True
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._closing:  # The end of an earlier one, beside the current one's beginning.
            self._closing -= 1
            return
        self._is_open = False
        if self._response_status is not None and not self._response_status.done():
            kind = _ClosedUnread if self._was_used and not self._has_begun else UnexpectedResponse
            self._response_status.set_exception(
                kind(f"a server closed the connection before its response was complete: {exc}")
            )

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._keeps_alive = self._parser.should_keep_alive()
        if self._response_status is not None and not self._response_status.done():
            self._response_status.set_result(self._parser.get_status_code())


def json_post(url: str, path: str, document: Mapping[str, object], headers: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of a POST request to the server at `url`."""
    body = msgspec.json.encode(document)
    head = (
        f"POST {path} HTTP/1.1\r\n"
        f"Host: {urlsplit(url).netloc}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
    )
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return f"{head}{more}\r\n".encode() + body


def _ignore(_body: bytes) -> None:
    """Drop bytes that arrive before the first request."""
