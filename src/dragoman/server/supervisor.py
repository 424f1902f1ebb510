"""Child processes that are kept running.

A child prints `ready`, or `failed REASON`, on its standard output. Its standard input stays open as long as its parent
lives, so that it can exit when the parent dies. Children have sessions of their own: Ctrl-C reaches the parent only,
which then stops them in order.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import structlog

_MIN_BACKOFF_SECONDS = 0.1
_MAX_BACKOFF_SECONDS = 10.0
_BACKOFF_RESET_SECONDS = 60.0
"""A child that ran longer than this is restarted without a pause."""

_STOP_MARGIN_SECONDS = 5.0
"""Time that a child has to exit after its own grace period."""

_log = structlog.get_logger(__name__)


class ChildFailed(Exception):
    """A child exited before it was ready. The message is one line for people."""


class ChildCommand(NamedTuple):
    """The command that starts a child."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    inherited_fds: Sequence[int] = ()
    on_demand: bool = False
    """Whether a child that exits with status 0 stays down until `wake`."""


class Child:
    """One process, restarted whenever it exits, until `stop`."""

    def __init__(self, command: ChildCommand) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._stopping = False
        self._wake_requested = asyncio.Event()

    @property
    def process_id(self) -> int | None:
        """The id of the current process."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the process and wait until it is ready. Raises ChildFailed."""
        await self._spawn()
        try:
            await self._wait_ready()
        except ChildFailed:
            await self._reap()
            raise
        self._supervision = asyncio.create_task(self._supervise())

    def start_inactive(self) -> None:
        """Start the process at the first `wake`."""
        self._supervision = asyncio.create_task(self._supervise())

    def wake(self) -> None:
        """Start a child that is down. A running one is left alone."""
        self._wake_requested.set()

    async def stop(self, grace_seconds: float = 0.0) -> None:
        """Send SIGTERM, then SIGKILL after `grace_seconds` and a margin. Return when the process has exited."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(grace_seconds + _STOP_MARGIN_SECONDS):
                    await process.wait()
            except TimeoutError:
                _log.warning("child_stop_timed_out", name=self._command.name)
                process.kill()
                await process.wait()
        if self._supervision is not None:
            self._supervision.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervision

    async def _supervise(self) -> None:
        backoff = 0.0
        while True:
            started_at = time.monotonic()
            status = await self._reap() if self._process else 0
            if self._stopping:
                return
            if status == 0 and self._command.on_demand:
                await self._wait_for_wake()
                continue
            backoff = 0.0 if time.monotonic() - started_at > _BACKOFF_RESET_SECONDS else backoff
            _log.error(
                "child_exited", name=self._command.name, status=_exit_description(status), backoff_seconds=backoff
            )
            await asyncio.sleep(backoff)
            backoff = min(_MAX_BACKOFF_SECONDS, max(_MIN_BACKOFF_SECONDS, 2 * backoff))
            await self._restart()

    async def _wait_for_wake(self) -> None:
        _log.info("child_idle", name=self._command.name)
        await self._wake_requested.wait()
        await self._restart()
        # Not before the restart: a wake during the exit would be lost.
        self._wake_requested.clear()

    async def _restart(self) -> None:
        await self._spawn()
        try:
            await self._wait_ready()
        except ChildFailed as error:
            _log.error("child_restart_failed", name=self._command.name, reason=str(error))

    async def _spawn(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command.arguments,
            env=dict(self._command.environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=tuple(self._command.inherited_fds),
            start_new_session=True,
        )

    async def _wait_ready(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None, "spawned with a pipe"
        async for line in self._process.stdout:
            text = line.decode(errors="replace").strip()
            if text == "ready":
                return
            if text.startswith("failed "):
                raise ChildFailed(text.removeprefix("failed "))
        status = _exit_description(await self._process.wait())
        raise ChildFailed(f"the {self._command.name} process ended with {status} before it was ready")

    async def _reap(self) -> int:
        """Wait for the exit and return the status. Output is read and dropped, so that the process never blocks."""
        assert self._process is not None
        assert self._process.stdout is not None, "spawned with a pipe"
        while await self._process.stdout.read(4096):
            pass
        return await self._process.wait()


def _exit_description(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
