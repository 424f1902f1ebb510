"""Responses as they are written to an HTTP/1 connection.

HTTP/1.0 clients get a body that ends with the connection, since they do not know chunks (RFC 9112, section 6.3).
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from dragoman.dialects.http.generation_response import ON_DISCONNECT

_NAME_BYTES = bytes(sorted({*range(0x21, 0x7F), *range(0x80, 0x100)} - set(b'()<>@,;:\\[]={}"')))
_VALUE_BYTES = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])
"""What names and values of headers may consist of."""


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
