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
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools
import msgspec
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from dragoman.dialects.http.generation_response import ON_DISCONNECT
from dragoman.server.open_connections import OpenConnections
from dragoman.server.settings import HttpSettings

MIN_BODY_BYTES_PER_SECOND = 1000
"""A body must arrive at least so fast on average, after its first `body_timeout_seconds`."""

_RETIRED_IDLE_SECONDS = 3.0
"""Time that an idle connection stays open when another server has taken over: its client may be about to use it."""

_NAME_BYTES = bytes(sorted({*range(0x21, 0x7F), *range(0x80, 0x100)} - set(b'()<>@,;:\\[]={}"')))
_VALUE_BYTES = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])
"""What names and values of headers may consist of."""

_ABSOLUTE_FORM = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")


class ResponseCycle(RequestResponseCycle):
    """A request and its response. The head of a response leaves with its first bytes: uvicorn writes them apart."""

    _head = b""
    """What waits for the first bytes of the body, or for the end of this iteration of the event loop."""
    _is_chunked = False
    _remaining_bytes: int | None = None
    """Of the body; None: its length is not known."""
    _report_disconnect: Callable[[], None] | None = None

    def on_disconnect(self, report: Callable[[], None]) -> None:
        """Call `report` when the client disconnects before the response is complete. See ON_DISCONNECT."""
        if self.disconnected:
            asyncio.get_running_loop().call_soon(report)
        self.flow.resume_reading()  # as receive() does: who does not read does not see the end
        self._report_disconnect = report

    def disconnect(self) -> None:
        """Note that the client has left."""
        self.disconnected = True
        self.message_event.set()
        report = self._report_disconnect
        self._end()
        if report is not None:
            report()

    def _end(self) -> None:
        self._report_disconnect = None
        scope: Any = self.scope
        scope.pop(ON_DISCONNECT, None)  # It refers to this object.

    async def send(self, message: Any) -> None:
        """Send a message of the response. Raises RuntimeError if it is not its turn."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        expected = "http.response.body" if self.response_started else "http.response.start"
        if self.response_complete or message["type"] != expected:
            raise RuntimeError(f"Unexpected ASGI message {message['type']!r}")
        if self.response_started:
            self._send_body(message.get("body", b""), message.get("more_body", False))
        else:
            self._send_head(message["status"], message.get("headers", ()))

    def _send_head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        lines = [STATUS_LINE[status]]
        is_closing = False
        for name, value in (*self.default_headers, *headers):
            if name.translate(None, _NAME_BYTES) or value.translate(None, _VALUE_BYTES):
                raise RuntimeError(f"Header {name!r} cannot be sent")
            if name == b"content-length":
                self._remaining_bytes = int(value)
            elif name == b"connection":
                is_closing = b"close" in value.lower()
            lines += (name, b": ", value, b"\r\n")
        self.keep_alive &= not is_closing
        if not self.keep_alive and not is_closing:
            lines.append(b"connection: close\r\n")
        if self.scope["method"] == "HEAD" or status in (204, 304):
            self._remaining_bytes = 0
        elif self._remaining_bytes is None and self.scope["http_version"] != "1.0":
            self._is_chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        self._head = b"".join((*lines, b"\r\n"))
        if self._remaining_bytes is None:
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Send a head that still waits for more."""
        if self._head and not self.transport.is_closing():
            self.transport.write(self._head)
        self._head = b""

    def _send_body(self, body: bytes, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            body = b""
        elif self._is_chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body += b"" if more else b"0\r\n\r\n"
        elif self._remaining_bytes is not None:
            self._remaining_bytes -= len(body)
            if self._remaining_bytes < 0 or (self._remaining_bytes and not more):
                raise RuntimeError("The response is not as long as its Content-Length")
        head, self._head = self._head, b""
        self.transport.write(head + body)
        if not more:
            self.response_complete = True
            self.message_event.set()
            self._end()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()


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
    _is_receiving_body = False
    """False in a request's head and between requests."""
    _unparsed_bytes = 0
    """Bytes received since the parser last delivered a part of the body; in the head, since its beginning."""
    _body_bytes = 0
    _body_started = 0.0
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
        self._begin_request()
        self.headers = []  # Trailers go here, and nothing reads them.
        self._body_bytes = 0
        self._is_receiving_body = True

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
