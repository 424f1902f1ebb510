"""The event loop's handle of one ledger process."""

import asyncio
import contextlib
import errno
import socket
import sys
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple, Protocol, Self

from dragoman.accounts.database.connections import Database
from dragoman.accounts.ledger.ledger_statements import ledger_statements
from dragoman.accounts.ledger.operations import LedgerOperation
from dragoman.accounts.process import server
from dragoman.accounts.process.messages import HEARTBEAT, Commit, LedgerConfig, LedgerReply, decode_reply, encode
from dragoman.core.forked_process import ForkedProcess, can_fork
from dragoman.core.frames import LENGTH_BYTES

_START_SECONDS = 60.0
"""Time until the first heartbeat: the interpreter and its imports, on a busy machine."""


class _ChildProcess(Protocol):
    def kill(self) -> None: ...

    async def wait(self) -> int: ...


class _StartedProcess(NamedTuple):
    process: _ChildProcess
    connection: socket.socket


class _ReceivedFrames(asyncio.Protocol):
    """The frames from the process. A StreamReader would pass each of them through six more calls."""

    def __init__(self) -> None:
        self.count = 0
        self.handle: Callable[[LedgerReply], None] | None = None
        self.has_begun = asyncio.Event()
        """Whether the first frame, or the end, has arrived."""
        self.has_ended = asyncio.Event()
        self._bytes = bytearray()

    def data_received(self, data: bytes) -> None:
        """Handle the frames that are complete. An error ends the connection."""
        received = self._bytes
        received += data
        first = 0
        while len(received) >= (body := first + LENGTH_BYTES):
            end = body + int.from_bytes(received[first:body], "little")
            if len(received) < end:
                break
            self._take(bytes(received[body:end]))
            first = end
        del received[:first]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Note the end."""
        self.has_begun.set()
        self.has_ended.set()

    def _take(self, body: bytes) -> None:
        self.count += 1
        if body != HEARTBEAT and self.handle is not None:
            self.handle(decode_reply(body))
        elif self.count == 1:
            self.has_begun.set()


class LedgerProcessHandle:
    """Implements transport.LedgerTransport. Create it by `start`; the owner must await `wait`."""

    sends_heartbeats: ClassVar[bool] = True

    def __init__(self, process: _ChildProcess, transport: asyncio.Transport, received: _ReceivedFrames) -> None:
        self._process = process
        self._transport = transport
        self._received = received
        self._has_commits = False

    @property
    def frames_received(self) -> int:
        return self._received.count

    @classmethod
    async def start(cls, config: LedgerConfig) -> Self:
        """Start a process and wait for its first heartbeat. Raises OSError if the system cannot start another one."""
        process, connection = await cls._start_process()
        loop = asyncio.get_running_loop()
        transport, received = await loop.create_unix_connection(_ReceivedFrames, sock=connection)
        transport.write(encode(config))
        handle = cls(process, transport, received)
        is_running = False
        try:
            async with asyncio.timeout(_START_SECONDS):
                await received.has_begun.wait()
                is_running = not received.has_ended.is_set()
        except TimeoutError:
            pass
        finally:
            if not is_running:
                handle.kill()
                status = await handle.wait()
        if not is_running:
            raise OSError(errno.ECHILD, f"it ended with status {status} at its start, or took too long")
        return handle

    @classmethod
    async def _start_process(cls) -> _StartedProcess:
        parent_socket, child_socket = socket.socketpair()
        with contextlib.ExitStack() as unused:
            unused.enter_context(parent_socket)
            with child_socket:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", server.__name__),
                    stdin=child_socket.fileno(),
                    stdout=asyncio.subprocess.DEVNULL,
                )
            unused.pop_all()
        return _StartedProcess(process, parent_socket)

    def commit(self, operations: Sequence[LedgerOperation], *, is_retry: bool) -> None:
        """Send a Commit. It is lost if the process has just died; `run` then ends."""
        self._has_commits = True
        if not self._transport.is_closing():
            self._transport.write(encode(Commit(list(operations), is_retry)))

    async def run(self, handle: Callable[[LedgerReply], None]) -> None:
        """Call `handle` with each reply until the process ends."""
        self._received.handle = handle
        await self._received.has_ended.wait()

    def finish(self) -> None:
        """Let it end after answering everything. One that was sent nothing is killed, as it has nothing to answer."""
        if not self._has_commits:
            self.kill()
            return
        with contextlib.suppress(OSError):  # It has died.
            self._transport.write_eof()

    def kill(self) -> None:
        """Kill it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> int:
        """Wait until it has ended, after its last reply, and return its exit status."""
        self._transport.close()
        return await self._process.wait()


class ForkedLedgerHandle(LedgerProcessHandle):
    """The same, but the first process is the one that `fork` has made, if it has made one."""

    _forked: ClassVar[list[ForkedProcess]] = []

    @classmethod
    def fork(cls, database: Database) -> None:
        """Fork a process. It shares the memory of what is imported, which is most of what a ledger process needs.

        Call it when that is done and nothing runs yet: a process with threads, or on another system than Linux, forks
        none.
        """
        if can_fork():
            ledger_statements(database.dialect)  # Both processes need them.
            cls._forked.append(ForkedProcess.fork(server.main, server.__name__))

    @classmethod
    async def _start_process(cls) -> _StartedProcess:
        if not cls._forked:
            return await super()._start_process()
        process = cls._forked.pop()
        return _StartedProcess(process, process.connection)
