"""One life of the ledger process, as the event loop sees it."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Self

from dragoman.accounts.messages import Commit, Opening, Reply, decode_reply, encode
from dragoman.accounts.operations import Operation
from dragoman.core.frames import read_frame

_MOST_REPLY_BYTES = 2**32
"""All that a frame can be: the other end is our own."""


class LedgerProcess:
    """Started by `start`; whoever has it waits for `end`."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._used = False

    @classmethod
    async def start(cls, opening: Opening) -> Self:
        """Raises OSError when there is no room for another process."""
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as unused:
            unused.enter_context(ours)
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "dragoman.accounts.process"),
                    stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.DEVNULL,
                )
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            unused.pop_all()
        writer.write(encode(opening))
        return cls(process, reader, writer)

    def commit(self, operations: Sequence[Operation], *, again: bool) -> None:
        """Send a Commit. What is sent to a process that has just died is lost; the end of `replies` tells so."""
        self._used = True
        if not self._writer.is_closing():
            self._writer.write(encode(Commit(list(operations), again)))

    async def replies(self) -> AsyncIterator[Reply]:
        """Until the process ends."""
        while (body := await read_frame(self._reader, _MOST_REPLY_BYTES)) is not None:
            yield decode_reply(body)

    def finish(self) -> None:
        """Let it end when it has answered everything; one that was asked nothing need not even begin."""
        if not self._used:
            self.kill()
            return
        with contextlib.suppress(OSError):  # It has died.
            self._writer.write_eof()

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> int:
        """Wait until it is gone, after its last reply; the status it ends with."""
        self._writer.close()
        return await self._process.wait()
