"""The ledger process of one server process: it commits what it is sent, and waits for the disk.

Started by child.LedgerProcess as `python -m dragoman.accounts.process`, with a socket as standard input, and ends when
the other end of that is closed. It decides nothing that the ledger does not decide. With the ledger in a process of
its own, the server's event loop and the database's work each have a core.
"""

import contextlib
import queue
import signal
import socket
import sys
import threading
import time
from typing import BinaryIO, cast

from dragoman.accounts.database import Database
from dragoman.accounts.ledger import Ledger
from dragoman.accounts.messages import (
    Commit,
    Committed,
    DatabaseFailed,
    Reply,
    Synced,
    decode_commit,
    decode_opening,
    encode,
    packed,
)
from dragoman.accounts.operations import Settlement
from dragoman.core.frames import read_frame_from
from dragoman.core.garbage import exempt_living_objects

_BETWEEN_SYNCS = 0.05
"""Seconds. Nobody waits for a settlement, and a sync costs as much as the transactions of several requests."""


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
        _Clerk(connection, _ledger(opening)).serve(frames)


class _Clerk:
    """Two threads: one commits, the other waits for the disk meanwhile."""

    def __init__(self, connection: socket.socket, ledger: Ledger) -> None:
        self._connection = connection
        self._ledger = ledger
        self._sending = threading.Lock()
        self._committed: queue.SimpleQueue[int] = queue.SimpleQueue()
        """Settlements of one transaction each; 0: there will be no more."""

    def serve(self, frames: BinaryIO) -> None:
        """Until the frames end or nobody hears the answers."""
        syncing = threading.Thread(target=self._sync, name="ledger-sync")
        syncing.start()
        try:
            with contextlib.suppress(ConnectionError):
                while (body := read_frame_from(frames)) is not None:
                    self._commit(decode_commit(body))
        finally:
            self._committed.put(0)
            syncing.join()
            self._ledger.close()

    def _commit(self, command: Commit) -> None:
        try:
            outcomes = self._ledger.commit(command.operations, again=command.again)
        except self._ledger.failures:
            self._send(DatabaseFailed())
            return
        except Exception as error:  # noqa: BLE001 - a defect is for those who asked
            outcomes = [error] * len(command.operations)
        settlements = sum(isinstance(operation, Settlement) for operation in command.operations)
        synced = not (settlements and self._ledger.needs_sync)
        self._send(Committed([packed(outcome) for outcome in outcomes], synced))
        if not synced:
            self._committed.put(settlements)

    def _sync(self) -> None:
        next_sync = 0.0
        more = True
        while more and (settlements := self._committed.get()):
            time.sleep(max(0.0, next_sync - time.monotonic()))
            meanwhile = self._committed_meanwhile()
            settlements, more = settlements + sum(meanwhile), 0 not in meanwhile
            next_sync = time.monotonic() + _BETWEEN_SYNCS
            error = None
            try:
                self._ledger.sync()
            except OSError as failure:
                error = failure.strerror
            with contextlib.suppress(ConnectionError):
                self._send(Synced(settlements, error))

    def _committed_meanwhile(self) -> list[int]:
        meanwhile = []
        with contextlib.suppress(queue.Empty):
            while True:
                meanwhile.append(self._committed.get_nowait())
        return meanwhile

    def _send(self, reply: Reply) -> None:
        frame = encode(reply)
        with self._sending:
            self._connection.sendall(frame)


def _ledger(opening_body: bytes) -> Ledger:
    opening = decode_opening(opening_body)
    ledger = Ledger(Database(opening.url, busy_seconds=opening.busy_seconds), opening.process_id)
    exempt_living_objects()
    return ledger


if __name__ == "__main__":
    main()
