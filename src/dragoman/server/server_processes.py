"""The child processes of one server: started together, watched, and stopped in order."""

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import Callable, Collection, Mapping, Sequence

from dragoman.core import logs
from dragoman.core.child_process import UNLOAD_LINE
from dragoman.core.process_options import OPTIONS_VARIABLE
from dragoman.server.child_group import start_group
from dragoman.server.first_process import orphan_reaper
from dragoman.server.supervisor import Child, ChildCommand, ChildFailed, ChildProcess, StartFailure
from dragoman.server.worker_options import RETIRE_LINE

_MAX_WAKE_REQUESTS = 4096
"""Requests to load a deployment that are read in one go."""

_CHECK_SECONDS = 1.0
"""How often it is checked whether the folder is there, and whether orphans have ended."""

_RELOAD_SECONDS = 10.0

_RETIREMENT_MARGIN_SECONDS = 5.0
"""Beyond the time for running requests: workers notice with a delay that connections have ended."""

_log = logs.get_logger(__name__)


class ServerProcesses:
    """The engines and workers of one run of the server."""

    def __init__(
        self,
        engines: Mapping[int, ChildCommand],
        worker: ChildCommand,
        *,
        worker_count: int,
        lazy: Collection[int],
        wake_fd: int,
        drain_seconds: float,
        report: Callable[[int, StartFailure | None], None],
        restore_folder: Callable[[], None],
    ) -> None:
        """`engines` have the numbers of their deployments, and those in `lazy` start with their first request.

        `worker` is the command of each of the `worker_count` workers.
        The number of an engine that must be loaded is read from `wake_fd`. Workers have `drain_seconds` to finish.
        `report` gets the number of an engine that cannot be started again, and None when it is.
        `restore_folder` is called every second.
        """
        self._engines = {
            number: Child(command, functools.partial(report, number)) for number, command in engines.items()
        }
        self._restore_folder = restore_folder
        self._worker_command = worker
        self._worker_count = worker_count
        self._workers: list[Child] = []
        self._has_workers = asyncio.Event()
        self._lazy = lazy
        self._wake_fd = wake_fd
        self._drain_seconds = drain_seconds
        self._stop_requested = asyncio.Event()
        self._is_retiring = False

    def retire(self) -> None:
        """Stop once the running requests have ended: another server accepts on the socket."""
        _log.info("server_retires", reason="another server has taken over")
        self._is_retiring = True
        self._stop_requested.set()

    def load(self, numbers: Collection[int]) -> None:
        """Start those of these engines that are down."""
        for engine in (self._engines[number] for number in numbers):
            if not engine.is_running:
                engine.wake()

    def unload(self, numbers: Collection[int]) -> None:
        """Let these engines end when they have no request; the next one starts them again."""
        for number in numbers:
            self._engines[number].send(UNLOAD_LINE)

    async def reload(self, command: ChildCommand, drain_seconds: float) -> list[str]:
        """Send all workers the options of `command`, with which later ones start. Return what went wrong.

        A worker's reply is `ok`, or a reason.
        """
        await self._has_workers.wait()
        line = command.environment[OPTIONS_VARIABLE].encode() + b"\n"
        self._drain_seconds = drain_seconds
        replies = await asyncio.gather(
            *(worker.request(command, line, _RELOAD_SECONDS) for worker in self._workers), return_exceptions=True
        )
        problems = []
        for reply in replies:
            if isinstance(reply, TimeoutError):
                problems.append("a worker does not answer")
            elif isinstance(reply, BaseException):
                raise reply
            elif reply not in ("", "ok"):
                problems.append(reply)
        return problems

    async def run(
        self,
        on_ready: Callable[[], None],
        on_stop: Callable[[], None] = lambda: None,
        on_hangup: Callable[[], None] | None = None,
    ) -> None:
        """Start all, call `on_ready`, wait for a signal to stop, call `on_stop` and stop all. Raises ChildFailed.

        The signals are SIGTERM and SIGINT, and SIGHUP if the terminal is gone; `on_hangup` is called at any other. A
        SIGHUP that is ignored already, as below nohup, stays ignored.
        """
        stop_requested = self._stop_requested
        had_terminal = _has_terminal()
        loop = asyncio.get_running_loop()

        def stop(signal_number: signal.Signals) -> None:
            _log.info("stop_requested", signal=signal_number.name)
            stop_requested.set()

        def hang_up() -> None:
            if on_hangup is None or (had_terminal and not _has_terminal()):
                stop(signal.SIGHUP)
            else:
                on_hangup()

        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, stop, signal_number)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, hang_up)
        loop.add_reader(self._wake_fd, self._on_wake_request)
        checks = asyncio.create_task(self._check())
        try:
            if await self._start(stop_requested):
                on_ready()
            await stop_requested.wait()
            on_stop()
        finally:
            if self._is_retiring:
                seconds = self._drain_seconds + _RETIREMENT_MARGIN_SECONDS
                await asyncio.gather(*(worker.retire(RETIRE_LINE, seconds) for worker in self._workers))
            await asyncio.gather(*(worker.stop(self._drain_seconds) for worker in self._workers))
            await asyncio.gather(*(engine.stop() for engine in self._engines.values()))
            checks.cancel()
            loop.remove_reader(self._wake_fd)

    async def _check(self) -> None:
        reap_orphans = orphan_reaper(os.getpid())
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            self._restore_folder()
            reap_orphans()

    def _on_wake_request(self) -> None:
        for number in os.read(self._wake_fd, _MAX_WAKE_REQUESTS):
            self._engines[number].wake()

    async def _start(self, stop_requested: asyncio.Event) -> bool:
        """Start engines and workers side by side. Returns False if a stop was requested before all were ready."""
        loading = []
        for number, engine in self._engines.items():
            if number in self._lazy:
                engine.start_inactive()
            else:
                loading.append(engine)
        starting = asyncio.gather(*(engine.start() for engine in loading), self._start_workers())
        stopping = asyncio.create_task(stop_requested.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if stop_requested.is_set():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError, ChildFailed):
                await starting
            return False
        stopping.cancel()
        await starting
        return True

    async def _start_workers(self) -> None:
        command, count = self._worker_command, self._worker_count
        processes: Sequence[ChildProcess | None] = await start_group(command, count) or [None] * count
        self._workers = [Child(command, process=process) for process in processes]
        self._has_workers.set()
        await asyncio.gather(*(worker.start() for worker in self._workers))


def _has_terminal() -> bool:
    """Whether the process has a controlling terminal. After its hang-up, that cannot be opened."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
