"""HTTP/1 connections with bounds: what a client may send before a request is known, how long it may take, and how many.

uvicorn's protocol parses and answers. It bounds neither the head of a request nor the time a client takes, so this
subclass does, before any byte reaches the app:

- the request line and headers together, the URL alone, the number of headers, and trailers have limits (431, 414);
- the head has a deadline, and a body must keep up a minimum rate (408);
- connections are limited in all and per client address (503).

HTTP/1.0 clients get a body that ends with the connection, since they do not know chunks (RFC 9112, section 6.3).
"""

import asyncio
import re
import resource
import time
from collections import Counter
from collections.abc import Callable, Container
from http import HTTPStatus
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dragoman.core import logs
from dragoman.core.addresses import client_network
from dragoman.server.settings import HttpSettings

MIN_BODY_BYTES_PER_SECOND = 1000
"""A body must arrive at least so fast on average, after its first `body_timeout_seconds`."""

RESERVED_DESCRIPTORS = 128
"""File descriptors kept for everything that is not a client's connection: engines, databases, journals."""

_RETIRED_IDLE_SECONDS = 3.0
"""Time that an idle connection stays open when another server has taken over: its client may be about to use it."""

_WARNING_SECONDS = 10.0
"""Refused connections are logged at most so often."""

_ABSOLUTE_FORM = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")

_log = logs.get_logger(__name__)


class OpenConnections:
    """The open connections of one worker, counted in all and by client."""

    def __init__(self, limit: int, limit_per_address: int, shared_addresses: Container[str]) -> None:
        """`shared_addresses` are those of proxies, behind which are many clients: only `limit` applies to them."""
        self._limit = limit
        self._limit_per_address = limit_per_address
        self._shared_addresses = shared_addresses
        self._by_client: Counter[str] = Counter()
        """By address, of IPv6 by network: a customer has as many IPv6 addresses as he likes."""
        self._total = 0
        self._refused = 0
        self._last_warning = float("-inf")

    def change_limits(self, limit: int, limit_per_address: int, shared_addresses: Container[str]) -> None:
        """Apply other limits to connections that are added from now on."""
        self._limit, self._limit_per_address, self._shared_addresses = limit, limit_per_address, shared_addresses

    def add(self, address: str) -> bool:
        """Count a connection. False if there are too many, and then it is not counted."""
        client = client_network(address)
        is_crowded = self._by_client[client] >= self._limit_per_address and address not in self._shared_addresses
        if self._total >= self._limit or is_crowded:
            self._warn()
            return False
        self._total += 1
        self._by_client[client] += 1
        return True

    def remove(self, address: str) -> None:
        """Forget a connection that `add` counted."""
        self._total -= 1
        client = client_network(address)
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]

    def _warn(self) -> None:
        self._refused += 1
        now = time.monotonic()
        if now - self._last_warning >= _WARNING_SECONDS:
            _log.warning("connections_refused", refused=self._refused, open=self._total)
            self._refused, self._last_warning = 0, now


def affordable_connections(wanted: int) -> int:
    """Lower `wanted` to what the process's file descriptors allow, and log that."""
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft_limit == resource.RLIM_INFINITY:
        return wanted
    affordable = max(1, soft_limit - RESERVED_DESCRIPTORS)
    if affordable < wanted:
        _log.warning("connection_limit_lowered", configured=wanted, connections=affordable)
    return min(wanted, affordable)


def bounded_protocol(settings: HttpSettings, trusted_proxies: Container[str]) -> type[HttpToolsProtocol]:
    """Make the protocol class that one worker gives to uvicorn."""

    class WorkerProtocol(BoundedHttpProtocol):
        """The protocol of one worker."""

    WorkerProtocol.settings = settings
    WorkerProtocol.open_connections = OpenConnections(
        affordable_connections(settings.max_connections), settings.max_connections_per_address, trusted_proxies
    )
    return WorkerProtocol


def change_bounds(protocol: type[asyncio.Protocol], settings: HttpSettings, trusted_proxies: Container[str]) -> None:
    """Give connections that are made from now on other bounds. `protocol` was made by bounded_protocol."""
    assert issubclass(protocol, BoundedHttpProtocol)
    protocol.settings = settings
    protocol.open_connections.change_limits(
        affordable_connections(settings.max_connections), settings.max_connections_per_address, trusted_proxies
    )


def retire_connections(protocol: type[asyncio.Protocol]) -> None:
    """Close connections after the response to their next request. `protocol` was made by bounded_protocol."""
    assert issubclass(protocol, BoundedHttpProtocol)
    protocol.is_retiring = True


class _AnyLength(int):
    """A content length that every body has: the end of the connection is the end of the body."""

    def __lt__(self, _other: object) -> bool:
        return False

    def __sub__(self, _other: object) -> "_AnyLength":
        return self

    def __ne__(self, _other: object) -> bool:
        return False

    __hash__ = int.__hash__


class CoalescingTransport(asyncio.Transport):
    """A transport that sends the head of a response with its first bytes, which uvicorn writes apart.

    A head alone is sent after this iteration of the event loop.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        elif data[:5] == b"HTTP/":
            self._head = bytes(data)
            self._loop.call_soon(self.flush)
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write a head that still waits for more."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._head = b""
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()


class BoundedHttpProtocol(HttpToolsProtocol):
    """Refuse what goes beyond the limits, and close the connection. See bounded_protocol."""

    settings: HttpSettings
    open_connections: OpenConnections
    is_retiring = False
    """Whether connections are closed after their next response."""

    url = b""
    _address = ""
    _is_counted = False
    _is_refused = False
    _is_receiving_body = False
    """False in a request's head and between requests."""
    _unparsed_bytes = 0
    """Bytes received since the parser last delivered a part of the body; in the head, since its beginning."""
    _body_bytes = 0
    _body_started = 0.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(CoalescingTransport(transport, self.loop))
        self._address = self.client[0] if self.client else ""
        self.settings = type(self).settings  # Those of the class may change, and a request must not see two.
        self._is_counted = self.open_connections.add(self._address)
        if not self._is_counted:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections", retry_after=1)
            return
        self._set_deadline(self.settings.head_timeout_seconds, self._head_timed_out)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        if self._is_counted:
            self._is_counted = False
            self.open_connections.remove(self._address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, in slices where a limit may be exceeded, so that it is noticed at the byte that exceeds it."""
        if self._unparsed_bytes + len(data) <= self.settings.max_head_bytes:
            self._unparsed_bytes += len(data)
            super().data_received(data)
        else:
            self._parse_slices(data)
        # A request that has arrived whole, as most do, needs no deadline.
        if self._deadline is None and not self._is_refused:
            if self._is_receiving_body:
                self._body_started = self.loop.time()
                self._set_deadline(self.settings.body_timeout_seconds, self._check_body_rate)
            elif self._unparsed_bytes:
                self._set_deadline(self.settings.head_timeout_seconds, self._head_timed_out)

    def _parse_slices(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and not self._is_refused and not self.transport.is_closing():
            room = self.settings.max_head_bytes - self._unparsed_bytes
            if room <= 0:
                self._refuse_unparsed()
                return
            part, rest = rest[:room], rest[room:]
            self._unparsed_bytes += len(part)
            super().data_received(bytes(part))

    def _refuse_unparsed(self) -> None:
        """Refuse more than `max_head_bytes` that are not a body."""
        if not self._is_receiving_body and len(self.url) > self.settings.max_url_bytes:
            self._refuse_url()
            return
        what = "Chunk extensions or trailers" if self._is_receiving_body else "Request head"
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"{what} over {self.settings.max_head_bytes} bytes")

    def _refuse_url(self) -> None:
        self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG, f"URL over {self.settings.max_url_bytes} bytes")

    def on_headers_complete(self) -> None:
        self._unparsed_bytes = 0
        self._clear_deadline()
        if len(self.url) > self.settings.max_url_bytes:
            self._refuse_url()
        elif len(self.headers) > self.settings.max_headers:
            message = f"More than {self.settings.max_headers} header fields"
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message)
        if self._is_refused:
            return
        if self.url[:1] != b"/":
            self._use_host_of_target()
        super().on_headers_complete()
        self.headers = []  # Trailers go here, and nothing reads them.
        if self.is_retiring:
            self.cycle.keep_alive = False
        if self.scope["http_version"] == "1.0" and self.cycle.scope is self.scope:
            self.cycle.chunked_encoding = False
            self.cycle.expected_content_length = _AnyLength()
        self._body_bytes = 0
        self._is_receiving_body = True

    def _use_host_of_target(self) -> None:
        """Replace the Host header by the host of a target in absolute form, which precedes it (RFC 9112, 3.2.2)."""
        if match := _ABSOLUTE_FORM.match(self.url):
            self.headers[:] = [(name, match[1] if name == b"host" else value) for name, value in self.headers]

    def close_if_idle(self) -> None:
        """Close the connection after some seconds, unless a request runs or begins until then."""
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = self.loop.call_later(_RETIRED_IDLE_SECONDS, self.timeout_keep_alive_handler)

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        self._body_bytes += len(body)
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed_bytes = 0
        self._is_receiving_body = False
        self._clear_deadline()
        if not self._is_refused:
            super().on_message_complete()

    def _head_timed_out(self) -> None:
        if self._unparsed_bytes:
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT, f"Request head not complete after {self.settings.head_timeout_seconds:g} s"
            )
        else:
            self.transport.close()

    def _check_body_rate(self) -> None:
        """Refuse a body that arrives too slowly. What the app has not read yet keeps nobody waiting but itself."""
        if self.flow.read_paused or self.pipeline:
            self._set_deadline(self.settings.body_timeout_seconds, self._check_body_rate)
            return
        allowed_seconds = self.settings.body_timeout_seconds + self._body_bytes / MIN_BODY_BYTES_PER_SECOND
        remaining = self._body_started + allowed_seconds - self.loop.time()
        if remaining > 0:
            self._set_deadline(min(remaining, self.settings.body_timeout_seconds), self._check_body_rate)
            return
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"Request body slower than {MIN_BODY_BYTES_PER_SECOND} bytes/s")

    def _refuse(self, status: HTTPStatus, message: str, *, retry_after: int | None = None) -> None:
        """Answer with an error, unless an answer has begun, and close the connection."""
        if self._is_refused:
            return
        self._is_refused = True
        self._clear_deadline()
        if self._may_answer():
            body = msgspec.json.encode({"detail": message})
            lines = [
                f"HTTP/1.1 {status.value} {status.phrase}",
                "content-type: application/json",
                f"content-length: {len(body)}",
                "connection: close",
            ]
            if retry_after is not None:
                lines.append(f"retry-after: {retry_after}")
            self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()

    def _may_answer(self) -> bool:
        """Whether the next bytes to the client are those of an answer to the request that is being received."""
        if self.cycle is None or self.cycle.response_complete:
            return True
        return self._is_receiving_body and not self.pipeline and not self.cycle.response_started

    def _set_deadline(self, seconds: float, expired: Callable[[], None]) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(seconds, expired)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
