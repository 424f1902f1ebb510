"""The ledger's side of a connection: it commits what it is sent, and waits for the disk meanwhile."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable

from dragoman.accounts.ledger.ledger import Ledger
from dragoman.accounts.ledger.operations import Settlement
from dragoman.accounts.process.messages import Commit, Committed, DatabaseFailed, LedgerReply, Synced, pack_outcome

_BETWEEN_SYNCS = 0.05
"""Seconds. Nobody waits for a settlement, and a sync costs as much as the transactions of several requests."""


class CommitLoop:
    """Two threads: the one that calls `serve` commits, the other waits for the disk meanwhile."""

    def __init__(self, ledger: Ledger, send: Callable[[LedgerReply], None]) -> None:
        """`send` is called by both threads, one at a time. It raises ConnectionError when nobody hears any more."""
        self._ledger = ledger
        self._send_reply = send
        self._sending = threading.Lock()
        self._committed: queue.SimpleQueue[int] = queue.SimpleQueue()
        """Settlements of one transaction each; 0: there will be no more."""

    def serve(self, commands: Iterable[Commit]) -> None:
        """Until the commands end or nobody hears the replies; the ledger is closed then."""
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
        except Exception as error:  # noqa: BLE001 - a defect is for those who asked
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

    def _send(self, reply: LedgerReply) -> None:
        with self._sending:
            self._send_reply(reply)
