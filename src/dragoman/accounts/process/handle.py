"""The event loop's handle of one ledger process."""

import asyncio
import contextlib
import errno
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
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
    """The frames from the process, which are awaited one at a time.

    A StreamReader would pass each of them through six more calls, while a request waits.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._bodies: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._has_ended = False

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        received = self._bytes
        received += data
        first = 0
        while len(received) >= (body := first + LENGTH_BYTES):
            end = body + int.from_bytes(received[first:body], "little")
            if len(received) < end:
                break
            self._bodies.append(bytes(received[body:end]))
            first = end
        del received[:first]
        if self._bodies:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Note the end."""
        self._has_ended = True
        self._wake()

    async def next(self) -> bytes | None:
        """Wait for a frame and return its body; None at the end of the connection."""
        while not self._bodies:
            if self._has_ended:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._bodies.popleft()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class LedgerProcessHandle:
    """Implements transport.LedgerTransport. Create it by `start`; the owner must await `wait`."""

    sends_heartbeats: ClassVar[bool] = True

    def __init__(self, process: _ChildProcess, transport: asyncio.Transport, received: _ReceivedFrames) -> None:
        self._process = process
        self._transport = transport
        self._received = received
        self._has_commits = False
        self.frames_received = 0

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
                is_running = await received.next() is not None
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
        """Send a Commit. It is lost if the process has just died; `replies` then ends."""
        self._has_commits = True
        if not self._transport.is_closing():
            self._transport.write(encode(Commit(list(operations), is_retry)))

    async def replies(self) -> AsyncIterator[LedgerReply]:
        """Yield the replies until the process ends."""
        while (body := await self._received.next()) is not None:
            self.frames_received += 1
            if body != HEARTBEAT:
                yield decode_reply(body)

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
