"""Children that are forked instead of started anew: they share the memory of imports. Linux only."""

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from dragoman.core import logs
from dragoman.core.child_process import STANDARD_ERROR, STANDARD_INPUT, STANDARD_OUTPUT, has_process_descriptors

_ARGUMENTS_START, _ARGUMENTS_END = 45, 46
"""Where /proc/self/stat has the addresses of the arguments, counted behind the name (proc_pid_stat(5))."""

UNKNOWN_STATUS = 255
"""The exit status of a process whose status nobody knows, as asyncio has it."""


def can_fork() -> bool:
    """Whether this process may fork a child that goes on in Python: other threads may hold locks that it would need."""
    return sys.platform == "linux" and threading.active_count() == 1 and has_process_descriptors()


class ProcessHandle:
    """A child of this process that asyncio has not started. The owner must await `wait`."""

    def __init__(self, process_id: int) -> None:
        self.pid = process_id
        self.returncode: int | None = None
        """Its exit status, negative for a signal, once `wait` has returned."""

    def send_signal(self, number: int) -> None:
        """Send it a signal. Raises ProcessLookupError if `wait` has returned, as its number may be another one's."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it. Raises ProcessLookupError as `send_signal` does."""
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Wait until it has ended, and return its exit status. Several tasks may wait.

        The status is UNKNOWN_STATUS if the system does not keep it, as where SIGCHLD is ignored.
        """
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                await self._wait_for_end()
            self._reap()
        assert self.returncode is not None
        return self.returncode

    async def _wait_for_end(self) -> None:
        loop = asyncio.get_running_loop()
        has_ended = asyncio.Event()
        descriptor = os.pidfd_open(self.pid)
        loop.add_reader(descriptor, has_ended.set)
        try:
            await has_ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def _reap(self) -> None:
        if self.returncode is None:
            try:
                self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            except ChildProcessError:
                self.returncode = UNKNOWN_STATUS


class ForkedProcess(ProcessHandle):
    """A child that this process has forked. Create it by `fork`."""

    def __init__(self, process_id: int, connection: socket.socket) -> None:
        super().__init__(process_id)
        self.connection = connection
        """The other end of its standard input."""

    @classmethod
    def fork(cls, run: Callable[[], None], name: str) -> Self:
        """Fork a child that calls `run` and ends. `name` is shown as its arguments.

        Its standard input is a socket, its standard output leads nowhere, and all other files are closed.
        """
        parent_socket, child_socket = socket.socketpair()
        # A collection writes to each object that it looks at, and what is written to is shared no more.
        gc.freeze()
        process_id = os.fork()
        if not process_id:
            _run_child(run, name, child_socket)
        child_socket.close()
        return cls(process_id, parent_socket)


def _run_child(run: Callable[[], None], name: str, connection: socket.socket) -> None:
    """Be the child: nothing of the parent may run in it, neither its code behind the fork nor what it does at exit."""
    status = 1
    try:
        with logs.file_released():
            _keep_files(connection)
        show_as_arguments(name)
        run()
        status = 0
    except BaseException:  # noqa: BLE001 - the border of the process: its interpreter would report it, and end
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _keep_files(connection: socket.socket) -> None:
    os.dup2(connection.fileno(), STANDARD_INPUT)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STANDARD_OUTPUT)
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor > STANDARD_ERROR:
            try:
                os.close(descriptor)
            except OSError:  # The one that listed them.
                continue
    connection.detach()


def show_as_arguments(name: str) -> None:
    """Overwrite what the kernel shows as the arguments of this process, which are its parent's."""
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    start, end = int(fields[_ARGUMENTS_START]), int(fields[_ARGUMENTS_END])
    if start:  # 0 if the kernel does not say.
        ctypes.memmove(start, name.encode()[: end - start - 1].ljust(end - start, b"\0"), end - start)
