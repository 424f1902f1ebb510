"""The ledger in a thread of the process that uses it.

It starts immediately and needs no memory of its own, but the event loop and the ledger take turns on one core.
"""

import asyncio
import contextlib
import errno
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Self

from dragoman.accounts.database.connections import Database
from dragoman.accounts.ledger.ledger import Ledger
from dragoman.accounts.ledger.operations import LedgerOperation
from dragoman.accounts.process.messages import Commit, LedgerConfig, LedgerReply
from dragoman.accounts.process.server import CommitLoop


class LedgerThread:
    """Implements transport.LedgerTransport."""

    sends_heartbeats: ClassVar[bool] = False
    frames_received: ClassVar[int] = 0

    def __init__(self, config: LedgerConfig, loop: asyncio.AbstractEventLoop) -> None:
        self._config = config
        self._loop = loop
        self._commands: queue.SimpleQueue[Commit | None] = queue.SimpleQueue()
        """None ends the thread."""
        self._handle: Callable[[LedgerReply], None] | None = None
        self._killed = False
        self._status = 1
        self._ended = asyncio.Event()
        # A daemon: if the event loop is lost without closing its client, the process can still exit.
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    @classmethod
    async def start(cls, config: LedgerConfig) -> Self:
        """Start a thread. Raises OSError if the system cannot start another one."""
        thread = cls(config, asyncio.get_running_loop())
        try:
            thread._thread.start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, str(error)) from error
        return thread

    def commit(self, operations: Sequence[LedgerOperation], *, is_retry: bool) -> None:
        """Send a transaction. It is lost if the thread has just ended."""
        self._commands.put(Commit(list(operations), is_retry))

    async def run(self, handle: Callable[[LedgerReply], None]) -> None:
        """Call `handle` with each reply until the thread ends."""
        self._handle = handle
        await self._ended.wait()

    def finish(self) -> None:
        """Let it end after answering everything."""
        self._commands.put(None)

    def kill(self) -> None:
        """End it after the running transaction, which is limited by the database's own timeout."""
        self._killed = True
        self._commands.put(None)

    async def wait(self) -> int:
        """Wait until it has ended, after its last reply; 0 after a normal end."""
        self._commands.put(None)
        await self._ended.wait()
        self._thread.join()
        return self._status

    def _run(self) -> None:
        try:
            database = Database(self._config.url, busy_seconds=self._config.busy_seconds)
            try:
                ledger = Ledger(database, self._config.process_id, skips_locked=True)
                CommitLoop(ledger, self._send).serve(self._received())
            finally:
                database.close()
            self._status = 0
        finally:
            self._end()

    def _received(self) -> Iterator[Commit]:
        while (command := self._commands.get()) is not None and not self._killed:
            yield command

    def _send(self, reply: LedgerReply) -> None:
        try:
            self._loop.call_soon_threadsafe(self._receive, reply)
        except RuntimeError:  # The event loop is closed.
            raise ConnectionAbortedError from None

    def _receive(self, reply: LedgerReply) -> None:
        if self._handle is not None:
            self._handle(reply)

    def _end(self) -> None:
        with contextlib.suppress(RuntimeError):  # The event loop is closed.
            self._loop.call_soon_threadsafe(self._ended.set)
