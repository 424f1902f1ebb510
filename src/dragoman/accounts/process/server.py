"""The ledger's side of the connection: the loop that commits and syncs, and the process around it.

LedgerProcessHandle starts the process as `python -m dragoman.accounts.process.server`, with a socket as standard input.
It ends when the other end of the socket is closed. All decisions are the ledger's. In a process of its own, the
database's work does not share a core with the server's event loop.
"""

import contextlib
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, cast

from dragoman.accounts.database.connections import Database, DatabaseUnavailable
from dragoman.accounts.ledger.ledger import Ledger
from dragoman.accounts.ledger.operations import Settlement
from dragoman.accounts.process.messages import (
    HEARTBEAT,
    Commit,
    Committed,
    DatabaseFailed,
    LedgerReply,
    Synced,
    decode_commit,
    decode_config,
    encode,
    pack_outcome,
)
from dragoman.core import logs
from dragoman.core.child_process import HEARTBEAT_SECONDS, end_with_parent
from dragoman.core.frames import encode_frame, read_frame_blocking
from dragoman.core.garbage_collection import freeze_startup_objects

_SYNC_INTERVAL_SECONDS = 0.05
"""No client waits for a settlement, and a sync costs as much as the transactions of several requests."""


class CommitLoop:
    """Two threads: the caller of `serve` commits, and the other one syncs the disk."""

    def __init__(self, ledger: Ledger, send: Callable[[LedgerReply], None]) -> None:
        """Both threads call `send`, one at a time. It raises ConnectionError when the client is gone."""
        self._ledger = ledger
        self._send_reply = send
        self._sending = threading.Lock()
        self._committed: queue.SimpleQueue[int] = queue.SimpleQueue()
        """Numbers of settlements, one for each transaction; 0 ends the syncing thread."""

    def serve(self, commands: Iterable[Commit]) -> None:
        """Commit until the commands end or the client is gone, then close the ledger."""
        syncing = threading.Thread(target=self._sync, name="ledger-sync")
        syncing.start()
        try:
            with contextlib.suppress(ConnectionError):
                for command in commands:
                    self._commit(command)
        finally:
            self._committed.put(0)
            syncing.join()
            self._ledger.close()

    def _commit(self, command: Commit) -> None:
        try:
            outcomes = self._ledger.commit(command.operations, is_retry=command.is_retry)
        except DatabaseUnavailable as error:
            self._send(DatabaseFailed(str(error)))
            return
        except Exception as error:  # noqa: BLE001 - a defect is reported to the callers
            outcomes = [error] * len(command.operations)
        settlements = sum(isinstance(operation, Settlement) for operation in command.operations)
        synced = not (settlements and self._ledger.needs_sync)
        self._send(Committed([pack_outcome(outcome) for outcome in outcomes], synced))
        if not synced:
            self._committed.put(settlements)

    def _sync(self) -> None:
        next_sync = 0.0
        more = True
        while more and (settlements := self._committed.get()):
            time.sleep(max(0.0, next_sync - time.monotonic()))
            further = self._drain_committed()
            settlements, more = settlements + sum(further), 0 not in further
            next_sync = time.monotonic() + _SYNC_INTERVAL_SECONDS
            error = None
            try:
                self._ledger.sync()
            except DatabaseUnavailable as failure:
                error = str(failure)
            with contextlib.suppress(ConnectionError):
                self._send(Synced(settlements, error))

    def _drain_committed(self) -> list[int]:
        counts = []
        with contextlib.suppress(queue.Empty):
            while True:
                counts.append(self._committed.get_nowait())
        return counts

    def _send(self, reply: LedgerReply) -> None:
        with self._sending:
            self._send_reply(reply)


def main() -> None:
    """Serve until the server process closes the connection or dies."""
    end_with_parent()
    _run_without_preempting()
    # A signal to the whole process group must not stop commits: the server ends this process when it is done.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=sys.stdin.fileno()) as connection, connection.makefile("rb") as received:
        frames = cast(BinaryIO, received)
        config = read_frame_blocking(frames)
        if config is None:
            return
        logs.configure_child()
        send = _synchronized_send(connection)
        threading.Thread(target=_send_heartbeats, args=(send,), name="heartbeats", daemon=True).start()
        loop = CommitLoop(_open_ledger(config), lambda reply: send(encode(reply)))
        loop.serve(_commands(frames))


def _run_without_preempting() -> None:
    """Let a message not take the core of the server process that sends it: a transaction would stop its event loop.

    Linux wakes a process where the message comes from if no core is idle, and lets one that has slept run first, unless
    its policy is SCHED_BATCH, see sched(7).
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # A container may forbid it.
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _synchronized_send(connection: socket.socket) -> Callable[[bytes], None]:
    """Return a function that sends one frame at a time, from any thread."""
    sending = threading.Lock()

    def send(frame: bytes) -> None:
        with sending:
            connection.sendall(frame)

    return send


def _send_heartbeats(send: Callable[[bytes], None]) -> None:
    with contextlib.suppress(OSError):  # The client is gone.
        while True:
            send(encode_frame(HEARTBEAT))
            time.sleep(HEARTBEAT_SECONDS)


def _commands(frames: BinaryIO) -> Iterator[Commit]:
    while (body := read_frame_blocking(frames)) is not None:
        yield decode_commit(body)


def _open_ledger(config_body: bytes) -> Ledger:
    config = decode_config(config_body)
    database = Database(config.url, busy_seconds=config.busy_seconds)
    ledger = Ledger(database, config.process_id, skips_locked=True)
    freeze_startup_objects()
    return ledger


if __name__ == "__main__":
    main()
