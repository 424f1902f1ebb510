"""One life of the ledger process, as the event loop sees it."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Self

from dragoman.accounts.ledger.operations import LedgerOperation
from dragoman.accounts.process.messages import Commit, LedgerConfig, LedgerReply, decode_reply, encode
from dragoman.core.frames import read_frame

_MAX_REPLY_BYTES = 2**32
"""All that a frame can be: the other end is our own."""


class LedgerProcessHandle:
    """Started by `start`; whoever has it waits for `end`."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._has_commits = False

    @classmethod
    async def start(cls, config: LedgerConfig) -> Self:
        """Raises OSError when there is no room for another process."""
        parent_socket, child_socket = socket.socketpair()
        with contextlib.ExitStack() as unused:
            unused.enter_context(parent_socket)
            with child_socket:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "dragoman.accounts.process.server"),
                    stdin=child_socket.fileno(),
                    stdout=asyncio.subprocess.DEVNULL,
                )
            reader, writer = await asyncio.open_unix_connection(sock=parent_socket)
            unused.pop_all()
        writer.write(encode(config))
        return cls(process, reader, writer)

    def commit(self, operations: Sequence[LedgerOperation], *, is_retry: bool) -> None:
        """Send a Commit. What is sent to a process that has just died is lost; the end of `replies` tells so."""
        self._has_commits = True
        if not self._writer.is_closing():
            self._writer.write(encode(Commit(list(operations), is_retry)))

    async def replies(self) -> AsyncIterator[LedgerReply]:
        """Until the process ends."""
        while (body := await read_frame(self._reader, _MAX_REPLY_BYTES)) is not None:
            yield decode_reply(body)

    def finish(self) -> None:
        """Let it end when it has answered everything; one that was asked nothing need not even begin."""
        if not self._has_commits:
            self.kill()
            return
        with contextlib.suppress(OSError):  # It has died.
            self._writer.write_eof()

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> int:
        """Wait until it is gone, after its last reply; the status it ends with."""
        self._writer.close()
        return await self._process.wait()
