"""The ledger's side of the connection: one thread commits while another syncs the disk."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable

from dragoman.accounts.ledger.ledger import Ledger
from dragoman.accounts.ledger.operations import Settlement
from dragoman.accounts.process.messages import Commit, Committed, DatabaseFailed, LedgerReply, Synced, pack_outcome

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
        except self._ledger.transient_errors:
            self._send(DatabaseFailed())
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
            except OSError as failure:
                error = failure.strerror
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
