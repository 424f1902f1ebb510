"""Messages between our own processes: four bytes of length, little-endian, and as many of msgpack."""

import asyncio
import socket
import threading
from typing import BinaryIO

LENGTH_BYTES = 4


class FrameTooLong(Exception):
    """The data is no frame of the other process."""

    def __init__(self, length: int) -> None:
        super().__init__(f"a frame of {length} bytes")
        self.length = length


def encode_frame(body: bytes) -> bytes:
    """Prefix the body with its length."""
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


async def read_frame(reader: asyncio.StreamReader, max_bytes: int) -> bytes | None:
    """Read the next frame's body; None at the end of the connection. Raises FrameTooLong."""
    try:
        length = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "little")
        if length > max_bytes:
            raise FrameTooLong(length)
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def read_frame_blocking(stream: BinaryIO) -> bytes | None:
    """Wait for the next frame's body; None at the end of the stream, even in the middle of a frame."""
    header = stream.read(LENGTH_BYTES)
    length = int.from_bytes(header, "little")
    body = stream.read(length)
    return body if (len(header), len(body)) == (LENGTH_BYTES, length) else None


_DRAINED_CHECK_SECONDS = 0.01
"""How often it is checked whether a slow reader has taken what waits for it."""

_PATIENCE_SECONDS = 10.0
"""How long a reader may take nothing: while it works on a long frame, it does not read the next one."""

_MOST_UNSENT = 4
"""With so many times the limit, a connection is cut even if its reader takes something."""


class FrameSender:
    """Sends frames on a connection at once, from any thread, without waking the event loop for each.

    Only what its reader is too slow for goes through the loop.
    """

    def __init__(
        self, writer: asyncio.StreamWriter, max_unsent_bytes: int, patience_seconds: float = _PATIENCE_SECONDS
    ) -> None:
        """Made on the connection's event loop.

        The connection is cut with more unsent bytes than the limit, if its reader has taken none for so long: a single
        frame may have more.
        """
        self._loop = asyncio.get_running_loop()
        self._writer = writer
        self._max_unsent_bytes = max_unsent_bytes
        self._patience_seconds = patience_seconds
        # The writer closes its own descriptor, whose number another connection may get while a thread sends.
        self._socket: socket.socket = writer.get_extra_info("socket").dup()
        self._socket.setblocking(False)
        self._lock = threading.Lock()
        self._is_closed = False
        self._unwritten = 0
        """The number of frames that the loop has still to take."""
        self._is_direct = True
        """Whether the writer has sent all that it was given."""
        self._is_checking = False
        """Whether the next check is due already."""
        self._unsent_bytes = 0
        """What the writer would have, had the reader taken nothing since the last check."""
        self._stalled_seconds = 0.0
        """How long the reader has taken nothing."""

    def send(self, frame: bytes) -> None:
        """Send a frame behind all others. It is dropped on a connection that has ended."""
        with self._lock:
            if self._is_closed:
                return
            if self._is_direct:
                sent = self._send_now(frame)
                if sent == len(frame):
                    return
                frame, self._is_direct = frame[sent:], False
            self._unwritten += 1
            self._loop.call_soon_threadsafe(self._write, frame)

    def close(self) -> None:
        """Close the connection as soon as the writer has sent what it was given. Called on the event loop."""
        with self._lock:
            self._is_closed = True
            self._socket.close()
        self._writer.close()

    def abort(self) -> None:
        """Close the connection now. Called on the event loop."""
        self.close()
        self._writer.transport.abort()

    def _send_now(self, frame: bytes) -> int:
        try:
            return self._socket.send(frame)
        except BlockingIOError:
            return 0
        except OSError:  # The connection has ended, which its reader notices.
            return len(frame)

    def _write(self, rest: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(rest)
        self._unsent_bytes += len(rest)
        with self._lock:
            self._unwritten -= 1
        if not self._is_checking:
            self._check_drained()

    def _check_drained(self) -> None:
        unsent = self._writer.transport.get_write_buffer_size()
        with self._lock:
            self._is_direct = not (unsent or self._unwritten)
            self._is_checking = not (self._is_direct or self._is_closed)
        self._stalled_seconds = 0.0 if unsent < self._unsent_bytes else self._stalled_seconds + _DRAINED_CHECK_SECONDS
        self._unsent_bytes = unsent
        if self._is_checking and self._is_stuck:
            self.abort()
        elif self._is_checking:
            self._loop.call_later(_DRAINED_CHECK_SECONDS, self._check_drained)

    @property
    def _is_stuck(self) -> bool:
        is_patient = self._stalled_seconds <= self._patience_seconds
        return self._unsent_bytes > self._max_unsent_bytes * (_MOST_UNSENT if is_patient else 1)
