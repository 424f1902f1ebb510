"""HTTP/1 connections with bounds: what a client may send before a request is known, how long it may take, and how many.

uvicorn's protocol parses and answers. It bounds neither the head of a request nor the time a client takes, so this
subclass does, before any byte reaches the app:

- the request line and headers together, the URL alone, the number of headers, and trailers have limits (431, 414);
- HTTP/1.1 requires one Host, and nothing allows several (400);
- the head has a deadline, and a body must keep up a minimum rate (408);
- connections are limited in all and per client address (503), and so are the requests that wait on one.

A client that offers another protocol (Upgrade) is answered in this one, as RFC 9110 lets a server do. The parser takes
what follows such an offer for that protocol, also the request's body, so that it gets the head again without the offer.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Container
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools
import msgspec
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dragoman.core import logs
from dragoman.core.addresses import client_network
from dragoman.dialects.http.generation_response import ON_DISCONNECT
from dragoman.server.response_cycle import ResponseCycle
from dragoman.server.settings import HttpSettings

MIN_BODY_BYTES_PER_SECOND = 1000
"""A body must arrive at least so fast on average, after its first `body_timeout_seconds`."""

_RETIRED_IDLE_SECONDS = 3.0
"""Time that an idle connection stays open when another server has taken over: its client may be about to use it."""

_MAX_PIPELINED = 100
"""Requests that may wait for the response to the one before. One packet could hold ten thousand, of some KiB each."""

_WARNING_SECONDS = 10.0
"""Refused connections are logged at most so often."""

_OFFER_FIELDS = frozenset((b"upgrade", b"http2-settings"))

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


class BoundedHttpProtocol(HttpToolsProtocol):
    """Refuse what goes beyond the limits, and close the connection. See http_server.bounded_protocol."""

    settings: HttpSettings
    open_connections: OpenConnections
    is_retiring = False
    """Whether connections are closed after their next response."""

    url = b""
    _address = ""
    _is_counted = False
    _is_refused = False
    _is_receiving_head = False
    """False between requests, where blank lines are ignored, as in a body."""
    _is_receiving_body = False
    """False in a request's head and between requests."""
    _head_without_offer = b""
    """Of a request with an offer of another protocol, between its head and the parser's report of the offer."""
    _unparsed_bytes = 0
    """Bytes received since the parser last delivered a part of the body; in the head, since its beginning."""
    _body_bytes = 0
    _body_started = 0.0
    _has_body_waited = False
    _deadline: asyncio.TimerHandle | None = None
    _running: ResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
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
        if (running := self._running) is not None and not running.response_complete:
            running.disconnect()

    def data_received(self, data: bytes) -> None:
        """Parse, in slices where a limit may be exceeded, so that it is noticed at the byte that exceeds it."""
        if self._unparsed_bytes + len(data) <= self.settings.max_head_bytes:
            self._unparsed_bytes += len(data)
            self._parse(data)
        else:
            self._parse_slices(data)
        if not (self._is_receiving_head or self._is_receiving_body):
            self._unparsed_bytes = 0
        # A request that has arrived whole, as most do, needs no deadline.
        if self._deadline is None and not self._is_refused:
            if self._is_receiving_body:
                self._body_started = self.loop.time()
                self._set_deadline(self.settings.body_timeout_seconds, self._check_body_rate)
            elif self._is_receiving_head:
                self._set_deadline(self.settings.head_timeout_seconds, self._head_timed_out)

    def _parse(self, data: bytes) -> None:
        while data and not self._is_refused:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                offset: int = upgrade.args[0]
                data, self._head_without_offer = self._head_without_offer + data[offset:], b""
            except httptools.HttpParserError:
                self._refuse(HTTPStatus.BAD_REQUEST, "Invalid HTTP request")
            else:
                return

    def _parse_slices(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and not self._is_refused and not self.transport.is_closing():
            room = self.settings.max_head_bytes - self._unparsed_bytes
            if room <= 0:
                self._refuse_unparsed()
                return
            part, rest = rest[:room], rest[room:]
            self._unparsed_bytes += len(part)
            self._parse(bytes(part))

    def _refuse_unparsed(self) -> None:
        """Refuse more than `max_head_bytes` that are not a body."""
        if not self._is_receiving_body and len(self.url) > self.settings.max_url_bytes:
            self._refuse_url()
            return
        what = "Chunk extensions or trailers" if self._is_receiving_body else "Request head"
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"{what} over {self.settings.max_head_bytes} bytes")

    def _refuse_url(self) -> None:
        self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG, f"URL over {self.settings.max_url_bytes} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_receiving_head = True
        self._unset_keepalive_if_required()

    def on_headers_complete(self) -> None:
        self._unparsed_bytes = 0
        self._is_receiving_head = False
        self._clear_deadline()
        if len(self.url) > self.settings.max_url_bytes:
            self._refuse_url()
        elif len(self.headers) > self.settings.max_headers:
            message = f"More than {self.settings.max_headers} header fields"
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message)
        elif not self._has_right_host():
            self._refuse(HTTPStatus.BAD_REQUEST, "A request must have one Host header field")
        elif self.parser.should_upgrade():
            self._take_offer()
            return
        if self._is_refused:
            return
        if self.url[:1] != b"/":
            self._use_host_of_target()
        self._begin_request()
        self.headers = []  # Trailers go here, and nothing reads them.
        self._body_bytes = 0
        self._is_receiving_body = True

    def _take_offer(self) -> None:
        """Keep the head without its offer of another protocol. The parser reports the offer next."""
        if (method := self.parser.get_method()) == b"CONNECT":
            self._refuse(HTTPStatus.BAD_REQUEST, "This server is no proxy")
            return
        line = b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())
        fields = [b"%b: %b" % (name, value) for name, value in self.headers if name not in _OFFER_FIELDS]
        self._head_without_offer = b"\r\n".join((line, *fields, b"", b""))

    def _begin_request(self) -> None:
        """Run the app, after the response to the request before."""
        scope: Any = self.scope
        scope["http_version"] = version = self.parser.get_http_version()
        scope["method"] = self.parser.get_method().decode("ascii")
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        is_first = self.cycle is None or self.cycle.response_complete
        if not is_first and len(self.pipeline) >= _MAX_PIPELINED:
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS, f"Over {_MAX_PIPELINED} requests wait for their responses")
            return
        self._unset_keepalive_if_required()
        self.cycle = cycle = ResponseCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and not self.is_retiring and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        scope[ON_DISCONNECT] = cycle.on_disconnect
        if is_first:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _start_asgi_task(self, cycle: Any, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _has_right_host(self) -> bool:
        """Whether there is one Host, which HTTP/1.0 may lack. A target in absolute form stands for none (RFC 9112)."""
        count = sum(name == b"host" for name, _ in self.headers)
        return count == 1 or (not count and self.parser.get_http_version() == "1.0")

    def _use_host_of_target(self) -> None:
        """Replace the Host header by the host of a target in absolute form, which precedes it (RFC 9112, 3.2.2)."""
        if match := _ABSOLUTE_FORM.match(self.url):
            self.headers[:] = [(name, match[1] if name == b"host" else value) for name, value in self.headers]

    def close_if_idle(self) -> None:
        """Close the connection after some seconds, unless a request runs or begins until then."""
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = self.loop.call_later(_RETIRED_IDLE_SECONDS, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.is_retiring:
            self.close_if_idle()

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        self._body_bytes += len(body)
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed_bytes = 0
        self._is_receiving_body = False
        self._clear_deadline()
        if not (self._is_refused or self._head_without_offer):
            super().on_message_complete()

    def _head_timed_out(self) -> None:
        if not self._may_answer():
            # A response runs. The next request has time from its end on.
            self._set_deadline(self.settings.head_timeout_seconds, self._head_timed_out)
        elif self._is_receiving_head:
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT, f"Request head not complete after {self.settings.head_timeout_seconds:g} s"
            )
        else:
            self.transport.close()

    def _check_body_rate(self) -> None:
        """Refuse a body that arrives too slowly. What the app has not read yet keeps nobody waiting but itself."""
        is_waiting = self.flow.read_paused or bool(self.pipeline)
        if is_waiting or self._has_body_waited:
            self._has_body_waited = is_waiting
            self._body_started, self._body_bytes = self.loop.time(), 0
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
        if self._running is not None:
            self._running.flush()
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
        if self._is_receiving_body:
            return not (self.pipeline or self.cycle.response_started)
        return self.cycle is None or self.cycle.response_complete

    def _set_deadline(self, seconds: float, expired: Callable[[], None]) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(seconds, expired)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
