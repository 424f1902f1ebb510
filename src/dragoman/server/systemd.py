"""Messages to systemd about the state of the server, as sd_notify(3) describes them. Without systemd, nothing is sent.

The unit needs `Type=notify` or, for reloads by `systemctl reload`, `Type=notify-reload`.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, MutableMapping

from dragoman.core import logs

_MICROSECONDS = 1_000_000

_log = logs.get_logger(__name__)


class ServiceManager:
    """The service manager that has started this process, if there is one."""

    def __init__(self, address: str | None, watchdog_seconds: float | None) -> None:
        self._address = address
        self._watchdog_seconds = watchdog_seconds

    @classmethod
    def take(cls, environment: MutableMapping[str, str]) -> "ServiceManager":
        """Return the manager of this process, and remove its variables: children must not send messages.

        WATCHDOG_PID is not compared, since the process that systemd starts may be a parent, such as `uv run`.
        """
        address, microseconds = environment.pop("NOTIFY_SOCKET", None), environment.pop("WATCHDOG_USEC", "")
        environment.pop("WATCHDOG_PID", None)
        return cls(address, int(microseconds) / _MICROSECONDS if microseconds.isdecimal() else None)

    def report_ready(self) -> None:
        """Report that requests are served, at the start or after a reload."""
        self._send("READY=1")

    def report_reloading(self) -> None:
        """Report that the settings are being read again."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def report_stopping(self) -> None:
        """Report that running requests are finished and then the process ends."""
        self._send("STOPPING=1")

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Send signs of life within the block, twice as often as the watchdog wants them, from the event loop."""
        if self._watchdog_seconds is None:
            yield
            return
        signs = asyncio.create_task(self._send_signs_of_life(self._watchdog_seconds / 2))
        try:
            yield
        finally:
            signs.cancel()

    async def _send_signs_of_life(self, pause_seconds: float) -> None:
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(pause_seconds)

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        # A leading @ stands for the zero byte of an abstract socket.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(message.encode(), address)
        except OSError as error:
            _log.warning("service_manager_unreachable", reason=error.strerror)
