"""Write log lines to standard error without waiting for ever for who reads it: a pipe, a terminal, systemd's journal.

A process that waits for the reader of its log does nothing else: no answer, no heartbeat, no end at SIGTERM.
"""

import contextlib
import logging
import os
import select
import socket
import stat
import time
from collections.abc import Callable

_MAX_WAIT_SECONDS, _WAIT_SHARE = 1.0, 0.1
"""How long lines wait for a slow reader at most at a time, and as a share of all time."""

_ATOMIC_BYTES = 512
"""What every pipe takes without a wait when it is writable at all, by POSIX."""


class StandardErrorHandler(logging.Handler):
    """Leaves lines out that their reader does not take in time, and says how many as soon as it reads again."""

    def __init__(self, file: int, lost_message: Callable[[int], object]) -> None:
        """`file`: the descriptor of standard error. `lost_message`: returns the message that so many lines are lost."""
        super().__init__()
        self._lost_message = lost_message
        self._channel = _open_channel(file)
        self._poll = select.poll()
        self._poll.register(self._channel.file, select.POLLOUT)
        self._lost = 0
        self._is_cut = False
        """Whether the last line was written without its end."""
        self._wait_left = _MAX_WAIT_SECONDS
        self._waited_at = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            if self._lost and self._write(self._describe_lost()):
                self._lost = 0
            if self._lost or not self._write(line):
                self._lost += 1
        except Exception:  # noqa: BLE001 - as all handlers do: what is logged must not fail for it
            self.handleError(record)

    def close(self) -> None:
        """Close the descriptor that the handler has opened."""
        self._channel.close()
        super().close()

    def _describe_lost(self) -> str:
        message = self._lost_message(self._lost)
        fields = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": message}
        return self.format(logging.makeLogRecord(fields))

    def _write(self, line: str) -> bool:
        """Write a line. False: it was not taken in time."""
        data = ("\n" * self._is_cut + line + "\n").encode(errors="backslashreplace")
        length = len(data)
        try:
            while data and self._is_writable():
                with contextlib.suppress(BlockingIOError):  # Another process was quicker.
                    data = data[self._channel.write(data) :]
        except OSError:  # The reader has gone, or the disk is full.
            pass
        if len(data) < length:
            self._is_cut = bool(data)
        return data in (b"", b"\n")  # The next line brings the line break.

    def _is_writable(self) -> bool:
        """Wait as long as the reader may still be waited for: not at all while lines are lost."""
        if self._poll.poll(0):
            return True
        now = time.monotonic()
        self._wait_left = min(_MAX_WAIT_SECONDS, self._wait_left + _WAIT_SHARE * (now - self._waited_at))
        is_writable = not self._lost and bool(self._poll.poll(self._wait_left * 1000))
        self._waited_at = time.monotonic()
        self._wait_left = max(0.0, self._wait_left - (self._waited_at - now))
        return is_writable


class _Channel:
    """A file, whose disk does not wait for readers."""

    def __init__(self, file: int) -> None:
        self.file = file

    def write(self, data: bytes) -> int:
        """Write what there is room for, and return its length. Raises OSError."""
        return os.write(self.file, data)

    def close(self) -> None:
        pass


class _ReopenedChannel(_Channel):
    """A pipe or terminal that was opened anew, so that it never waits, whatever other processes do with it."""

    def close(self) -> None:
        os.close(self.file)


class _SharedChannel(_Channel):
    """A pipe or terminal that cannot be opened anew."""

    def write(self, data: bytes) -> int:
        return super().write(data[:_ATOMIC_BYTES])


class _SocketChannel(_Channel):
    """A socket."""

    def __init__(self, file: int) -> None:
        self._socket = socket.socket(fileno=os.dup(file))
        super().__init__(self._socket.fileno())

    def write(self, data: bytes) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT)

    def close(self) -> None:
        self._socket.close()


def _open_channel(file: int) -> _Channel:
    mode = os.fstat(file).st_mode
    if stat.S_ISSOCK(mode):
        return _SocketChannel(file)
    if not stat.S_ISFIFO(mode) and not os.isatty(file):
        return _Channel(file)
    try:
        return _ReopenedChannel(
            os.open(f"/proc/self/fd/{file}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        )
    except OSError:  # Not on Linux, or another user's.
        return _SharedChannel(file)
