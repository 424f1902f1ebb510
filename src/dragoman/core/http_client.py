"""HTTP connections to other servers, with bounds on what those may send.

aiohttp limits the size of a header line and the time of a request. It accepts interim responses (`100 Continue`, `103
Early Hints`) without end, and keeps what it has not read yet. Whatever connects to an address that a client names
uses this connector, so that it cannot be made to parse and store more than a response's head.
"""

import functools
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

MAX_HEAD_BYTES = 64 * 1024
"""The status line and headers of a response, with all interim responses before it."""

_SWITCHING_PROTOCOLS = 101
"""The last response of HTTP on its connection."""

_FIRST_FINAL_STATUS = 200


class ResponseHeadTooLarge(aiohttp.ClientError):
    """A server sent more than a response's head may have, and the response has not begun."""


class BoundedConnector(aiohttp.TCPConnector):
    """A connector whose connections are closed when a response's head is too large."""

    def __init__(self, *, max_head_bytes: int = MAX_HEAD_BYTES, **options: Any) -> None:
        """`options` are those of aiohttp.TCPConnector."""
        super().__init__(**options)
        self._factory = functools.partial(_BoundedResponseHandler, self._loop, max_head_bytes)  # type: ignore[assignment]


class _BoundedResponseHandler(ResponseHandler):
    """Counts the bytes from a request on until its response's head is complete."""

    def __init__(self, loop: Any, max_head_bytes: int) -> None:
        super().__init__(loop)
        self._max_head_bytes = max_head_bytes
        self._head_bytes = 0
        self._is_in_head = True

    def set_response_params(self, **options: Any) -> None:
        """Begin with the next request of the connection."""
        self._head_bytes = 0
        self._is_in_head = True
        super().set_response_params(**options)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take a parsed head."""
        code = data[0].code
        if code >= _FIRST_FINAL_STATUS or code == _SWITCHING_PROTOCOLS:
            self._is_in_head = False
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """Parse at most as many bytes as a head may have, and then only what follows a complete one."""
        rest = memoryview(data)
        while rest and self._is_in_head:
            room = self._max_head_bytes - self._head_bytes
            if room <= 0:
                self._refuse()
                return
            part, rest = rest[:room], rest[room:]
            self._head_bytes += len(part)
            super().data_received(bytes(part))
            if self.transport is None or self.transport.is_closing():
                return
        # aiohttp resumes a paused parser with no data.
        if rest or not data:
            super().data_received(bytes(rest))

    def _refuse(self) -> None:
        self.set_exception(ResponseHeadTooLarge(f"the head of the response has more than {self._max_head_bytes} bytes"))
        if self.transport is not None:
            self.transport.abort()
