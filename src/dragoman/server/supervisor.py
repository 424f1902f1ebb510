"""Child processes that are kept running.

A child prints `ready`, or `failed REASON`, on its standard output, and heartbeats (core/child_process.py). One that is
silent for too long is killed and replaced. Its standard input stays open as long as its parent lives, so that it can
exit when the parent dies. Children have sessions of their own: Ctrl-C reaches the parent only, which then stops them in
order.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from dragoman.core import logs
from dragoman.core.child_process import HEARTBEAT_SECONDS

_MIN_BACKOFF_SECONDS = 0.1
_MAX_BACKOFF_SECONDS = 10.0
_BACKOFF_RESET_SECONDS = 60.0
"""A child that ran longer than this is restarted without a pause."""

_MIN_RETRY_SECONDS = 1.0
"""The pause after a first start that failed. It doubles with each further one."""

FIRST_OUTPUT_SECONDS = 60.0
"""Time until the first heartbeat: the interpreter and its imports, on a busy machine."""

_STOP_MARGIN_SECONDS = 5.0
"""Time that a child has to exit after its own grace period."""

_log = logs.get_logger(__name__)


class ChildFailed(Exception):
    """A child exited before it was ready. The message is one line for people."""


class ChildCommand(NamedTuple):
    """The command that starts a child."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    inherited_fds: Sequence[int] = ()
    on_demand: bool = False
    """Whether a child that exits with status 0, or cannot start, stays down until `wake`."""
    heartbeat_timeout_seconds: float | None = None
    """Time without output after which the child is killed. None: it sends no heartbeats."""
    max_retry_seconds: float = 300.0
    """The longest pause between two starts that fail."""
    wake_seconds: float = 30.0
    """Time before the exit of a child from which a `wake` starts it again. An older one was for its last start."""
    group_arguments: Sequence[str] = ()
    """The command that starts several such children at once (server/child_group.py). Empty: there is none."""


class ChildProcess(Protocol):
    """A process as asyncio.subprocess has it."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    @property
    def stdin(self) -> asyncio.StreamWriter | None: ...

    @property
    def stdout(self) -> asyncio.StreamReader | None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...

    async def wait(self) -> int: ...


class StartFailure(NamedTuple):
    """Why a child cannot be started again, and when that will be tried next."""

    reason: str
    attempts: int
    """Starts that failed in a row."""
    retry_seconds: float | None
    """None: the next attempt is under way."""


class Child:
    """One process, restarted whenever it exits, until `stop`."""

    def __init__(
        self,
        command: ChildCommand,
        report: Callable[[StartFailure | None], None] | None = None,
        *,
        process: ChildProcess | None = None,
    ) -> None:
        """`report` is called when a start after the first fails, when the next begins, and with None at success.

        `process` is the first one, if it runs already.
        """
        self._command = command
        self._report = report or (lambda _failure: None)
        self._failed_starts = 0
        self._reading: asyncio.Task[bytes] | None = None
        """Reads the next output. It survives timeouts, so that no output is lost."""
        self._process = process
        self._supervision: asyncio.Task[None] | None = None
        self._stopping = False
        self._wake_requested = asyncio.Event()
        self._woken_at = 0.0
        """When the last wake was requested, on the monotonic clock."""
        self._reply: asyncio.Future[str] | None = None
        """Waits for the next line that is no heartbeat, after those of `_late_replies`."""
        self._late_replies = 0
        """Requests to the current process that nobody waits for any more, and that it has not replied to."""
        self._unfinished = b""
        """The beginning of a line."""

    @property
    def process_id(self) -> int | None:
        """The id of the current process."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the process and wait until it is ready. Raises ChildFailed."""
        if self._process is None:
            try:
                await self._spawn()
            except OSError as error:
                raise ChildFailed(f"the {self._command.name} process cannot be started: {error.strerror}") from error
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
        self._woken_at = time.monotonic()
        self._wake_requested.set()

    @property
    def is_running(self) -> bool:
        """Whether there is a process now."""
        return self._process is not None and self._process.returncode is None

    def send(self, line: bytes) -> None:
        """Write a line to the process's standard input. One that is down gets nothing."""
        process = self._process
        if process is not None and process.returncode is None:
            assert process.stdin is not None, "spawned with a pipe"
            process.stdin.write(line)

    async def request(self, command: ChildCommand, line: bytes, timeout_seconds: float) -> str:
        """Write a line to the process's standard input and return its reply. Later starts use `command`.

        A process that is down replies nothing: the empty text. Others reply to each line, in their order. Raises
        TimeoutError. For one caller at a time.
        """
        self._command = command
        process = self._process
        if process is None or process.returncode is not None:
            return ""
        assert process.stdin is not None, "spawned with a pipe"
        self._reply = asyncio.get_running_loop().create_future()
        ended: asyncio.Future[Any] = asyncio.create_task(process.wait())
        try:
            async with asyncio.timeout(timeout_seconds):
                process.stdin.write(line)
                with contextlib.suppress(ConnectionError):
                    await process.stdin.drain()
                await asyncio.wait([self._reply, ended], return_when=asyncio.FIRST_COMPLETED)
            return self._reply.result() if self._reply.done() else ""
        finally:
            if not self._reply.done() and self._process is process:
                self._late_replies += 1
            self._reply = None
            ended.cancel()

    async def retire(self, line: bytes, timeout_seconds: float) -> None:
        """Write a line at which the process ends by itself, and wait until it has. It is not started again."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None, "spawned with a pipe"
        process.stdin.write(line)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await process.wait()

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
                with contextlib.suppress(ProcessLookupError):  # It may end just now.
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
                _log.info("child_idle", name=self._command.name)
                if time.monotonic() - self._woken_at > self._command.wake_seconds:
                    self._wake_requested.clear()
                await self._wake_requested.wait()
                await self._restart()
                continue
            backoff = 0.0 if time.monotonic() - started_at > _BACKOFF_RESET_SECONDS else backoff
            _log.error(
                "child_exited", name=self._command.name, status=exit_description(status), backoff_seconds=backoff
            )
            await asyncio.sleep(backoff)
            backoff = min(_MAX_BACKOFF_SECONDS, max(_MIN_BACKOFF_SECONDS, 2 * backoff))
            await self._restart()

    async def _restart(self) -> None:
        """Start the process until that succeeds. One that is started on demand waits for a demand between attempts."""
        while True:
            try:
                await self._spawn()
                await self._wait_ready()
            except (ChildFailed, OSError) as error:
                await self._pause_after_failure(error)
            else:
                if self._failed_starts:
                    self._report(None)
                self._failed_starts = 0
                # Not before the start: a wake during the exit would be lost.
                self._wake_requested.clear()
                return

    async def _pause_after_failure(self, error: Exception) -> None:
        if self._process is not None:
            await self._reap()
        self._failed_starts += 1
        retry_seconds = min(self._command.max_retry_seconds, _MIN_RETRY_SECONDS * 2 ** min(self._failed_starts - 1, 30))
        _log.error(
            "child_restart_failed",
            name=self._command.name,
            reason=str(error),
            attempts=self._failed_starts,
            retry_seconds=retry_seconds,
        )
        self._wake_requested.clear()
        failure = StartFailure(str(error), self._failed_starts, retry_seconds)
        self._report(failure)
        await asyncio.sleep(retry_seconds)
        if self._command.on_demand:
            await self._wake_requested.wait()
        self._report(failure._replace(retry_seconds=None))

    async def _spawn(self) -> None:
        self._late_replies = 0
        self._process = await asyncio.create_subprocess_exec(
            *self._command.arguments,
            env=dict(self._command.environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=tuple(self._command.inherited_fds),
            start_new_session=True,
        )

    async def _wait_ready(self) -> None:
        self._unfinished = b""
        min_timeout = FIRST_OUTPUT_SECONDS
        while output := await self._next_output(min_timeout):
            min_timeout = 0.0
            for text in self._lines(output):
                if text == "ready":
                    return
                if text.startswith("failed "):
                    raise ChildFailed(text.removeprefix("failed "))
                self._deliver_reply(text)
        assert self._process is not None
        status = exit_description(await self._process.wait())
        raise ChildFailed(f"the {self._command.name} process ended with {status} before it was ready")

    async def _reap(self) -> int:
        """Wait for the exit and return the status. Output is read, so that the process never blocks."""
        assert self._process is not None
        while output := await self._next_output():
            for text in self._lines(output):
                self._deliver_reply(text)
        return await self._process.wait()

    def _deliver_reply(self, text: str) -> None:
        if self._late_replies:
            self._late_replies -= 1
        elif self._reply is not None and not self._reply.done():
            self._reply.set_result(text)

    def _lines(self, output: bytes) -> list[str]:
        """Return the lines that the output completes, but for heartbeats."""
        *lines, self._unfinished = (self._unfinished + output).split(b"\n")
        return [text for line in lines if (text := line.decode(errors="replace").strip())]

    async def _next_output(self, min_timeout_seconds: float = 0.0) -> bytes:
        """Return the next output, b"" at its end. Kill the process if it is silent for too long.

        The silence is counted in turns of this loop: if this process itself was stopped, that is no child's silence.
        """
        process, limit = self._process, self._command.heartbeat_timeout_seconds
        assert process is not None
        assert process.stdout is not None, "spawned with a pipe"
        if self._reading is None:
            self._reading = asyncio.create_task(process.stdout.read(4096))
        silent_seconds = 0.0
        turn_seconds = HEARTBEAT_SECONDS if limit is None else min(HEARTBEAT_SECONDS, limit / 4)
        while not (await asyncio.wait([self._reading], timeout=turn_seconds))[0]:
            silent_seconds += turn_seconds
            if limit is not None and silent_seconds >= max(limit, min_timeout_seconds) and process.returncode is None:
                _log.error("child_hung", name=self._command.name, silent_seconds=silent_seconds)
                silent_seconds = 0.0
                process.kill()
        output, self._reading = self._reading.result(), None
        return output


def exit_description(status: int) -> str:
    """Return the exit status of a process for people."""
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
