"""The ledger process of one server process: it commits what it is sent, and waits for the disk.

Started by child.LedgerProcess as `python -m dragoman.accounts.process`, with a socket as standard input, and ends when
the other end of that is closed. It decides nothing that the ledger does not decide. With the ledger in a process of
its own, the server's event loop and the database's work each have a core.
"""

import signal
import socket
import sys
from collections.abc import Iterator
from typing import BinaryIO, cast

from dragoman.accounts.commit_loop import CommitLoop
from dragoman.accounts.database import Database
from dragoman.accounts.ledger import Ledger
from dragoman.accounts.messages import Commit, decode_commit, decode_opening, encode
from dragoman.core.frames import read_frame_from
from dragoman.core.garbage import exempt_living_objects


def main() -> None:
    """Answer until the server process closes the connection, or is no more."""
    # Whoever ends the server lets it finish what it has begun.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=sys.stdin.fileno()) as connection, connection.makefile("rb") as received:
        frames = cast(BinaryIO, received)
        opening = read_frame_from(frames)
        if opening is None:
            return
        loop = CommitLoop(_ledger(opening), lambda reply: connection.sendall(encode(reply)))
        loop.serve(_commands(frames))


def _commands(frames: BinaryIO) -> Iterator[Commit]:
    while (body := read_frame_from(frames)) is not None:
        yield decode_commit(body)


def _ledger(opening_body: bytes) -> Ledger:
    opening = decode_opening(opening_body)
    ledger = Ledger(Database(opening.url, busy_seconds=opening.busy_seconds), opening.process_id)
    exempt_living_objects()
    return ledger


if __name__ == "__main__":
    main()
