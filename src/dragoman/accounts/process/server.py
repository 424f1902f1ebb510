"""The ledger process of one server process: it commits and syncs.

LedgerProcessHandle starts it as `python -m dragoman.accounts.process.server` with a socket as standard input. It ends
when the other end of the socket is closed. All decisions are the ledger's. In a process of its own, the database's work
does not share a core with the server's event loop.
"""

import signal
import socket
import sys
from collections.abc import Iterator
from typing import BinaryIO, cast

from dragoman.accounts.database.connections import Database
from dragoman.accounts.ledger.ledger import Ledger
from dragoman.accounts.process.commit_loop import CommitLoop
from dragoman.accounts.process.messages import Commit, decode_commit, decode_config, encode
from dragoman.core.frames import read_frame_blocking
from dragoman.core.garbage_collection import freeze_startup_objects


def main() -> None:
    """Serve until the server process closes the connection or dies."""
    # A signal to the whole process group must not stop commits: the server ends this process when it is done.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=sys.stdin.fileno()) as connection, connection.makefile("rb") as received:
        frames = cast(BinaryIO, received)
        config = read_frame_blocking(frames)
        if config is None:
            return
        loop = CommitLoop(_open_ledger(config), lambda reply: connection.sendall(encode(reply)))
        loop.serve(_commands(frames))


def _commands(frames: BinaryIO) -> Iterator[Commit]:
    while (body := read_frame_blocking(frames)) is not None:
        yield decode_commit(body)


def _open_ledger(config_body: bytes) -> Ledger:
    config = decode_config(config_body)
    ledger = Ledger(Database(config.url, busy_seconds=config.busy_seconds), config.process_id)
    freeze_startup_objects()
    return ledger


if __name__ == "__main__":
    main()
