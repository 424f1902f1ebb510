"""The event loop's way to the ledger: a thread that commits, together, whatever has gathered while it was busy.

One client alone waits for a thread and a transaction; many at once share the transaction (group commit). The thread
only works; what is retried, given up or undone is decided on the event loop. Settlements that SQLite has committed go
on to a second thread, which waits for the disk meanwhile.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec

from dragoman.accounts.ledger import Ledger
from dragoman.accounts.operations import (
    Admission,
    Admitted,
    Inquiry,
    KeyFacts,
    Operation,
    Outcome,
    Settled,
    Settlement,
)
from dragoman.accounts.refusals import LedgerUnavailable

MOST_WAITING = 10_000
PATIENCE_SECONDS = 5.0

_AT_ONCE = 500
"""Operations in one transaction."""

_BETWEEN_SYNCS = 0.05
"""Seconds. Nobody waits for a settlement, and a sync costs as much as the transactions of several requests."""

_COMPANY_SECONDS = 0.002
"""How long a settlement waits for an admission to share a transaction with: one client's next request pays for its last
one. Long enough for a client on this machine to ask again, too short for anybody to find it missing often."""

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


class _Asked(msgspec.Struct, eq=False):
    """An operation and who waits for it."""

    operation: Operation
    future: asyncio.Future[Any]
    deadline: float | None = None
    """On the event loop's clock, since the database first failed. Settlements are never given up before the end."""
    tried: bool = False
    """Whether a transaction with it was begun whose end is not known."""


class LedgerThread:
    """Admits and settles for the event loop that it was started in. Use it as an async context manager."""

    def __init__(
        self, ledger: Ledger, *, most_waiting: int = MOST_WAITING, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        """`most_waiting` operations wait at once, and `patience_seconds` for a database that does not answer."""
        self._ledger = ledger
        self._most_waiting = most_waiting
        self._patience = patience_seconds
        self._gathered: list[_Asked] = []
        self._busy = False
        self._closing = False
        self._ended = False
        self._pause = 0.0
        self._timer: asyncio.Handle | None = None
        self._awaited = False
        """Whether somebody waits for what is gathered; nobody does for a settlement."""
        self._open = 0
        self._all_done = asyncio.Event()
        self._batches: queue.SimpleQueue[list[_Asked] | None] = queue.SimpleQueue()
        self._committed: queue.SimpleQueue[list[tuple[_Asked, Outcome]] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._commit_batches, name="ledger", daemon=True),
            threading.Thread(target=self._sync_batches, name="ledger-sync", daemon=True),
        ]

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Refuse newcomers, finish what waits, and end the threads. What cannot be settled now is left to recovery."""
        self._closing = True
        if self._open:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await self._all_done.wait()
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._batches.put(None)
        await asyncio.to_thread(self._join)
        self._deliver([(asked, _unavailable()) for asked in self._gathered])

    async def admit(self, admission: Admission) -> Admitted:
        """Hold what the request may cost. Raises a Refusal, RequestIdTaken, ValueError.

        A caller that is cancelled meanwhile has not begun: its hold is released, should it come about.
        """
        self._refuse_too_many()
        future: asyncio.Future[Admitted] = self._put(admission)
        try:
            return await future
        except asyncio.CancelledError:
            # Cancelling a task does not cancel a future that is done: it was admitted, and will never hear of it.
            if not future.cancelled() and future.exception() is None:
                self._undo(admission.request_id)
            raise

    def inquire(self, inquiry: Inquiry) -> "asyncio.Future[KeyFacts]":
        """Tell whose key it is. Raises a Refusal, as `admit` does."""
        self._refuse_too_many()
        return self._put(inquiry)

    def settle(self, settlement: Settlement) -> "asyncio.Future[Settled]":
        """Pay for a request, whoever waits for it or not: when it is done the settlement survives a loss of power.

        Raises, by the future, NeverAdmitted, ValueError, LedgerUnavailable when it is closed before the database
        answers, OSError when the disk fails.
        """
        return self._put(settlement)

    def _refuse_too_many(self) -> None:
        if self._closing or self._open >= self._most_waiting:
            raise LedgerUnavailable("Too many requests are waiting to be admitted", retry_after=1)

    def _put(self, operation: Operation) -> asyncio.Future[Any]:
        future = self._loop.create_future()
        self._gathered.append(_Asked(operation, future))
        if not self._awaited and not isinstance(operation, Settlement):
            self._awaited = True
            self._stop_waiting_for_company()
        self._open += 1
        self._all_done.clear()
        self._schedule()
        return future

    def _schedule(self) -> None:
        if self._gathered and not self._busy and self._timer is None and not self._ended:
            # Not at once: what else arrives in this turn of the loop shares the transaction.
            pause, send = self._pause or (0.0 if self._awaited else _COMPANY_SECONDS), self._send
            self._timer = self._loop.call_later(pause, send) if pause else self._loop.call_soon(send)

    def _stop_waiting_for_company(self) -> None:
        if self._timer is not None and not self._pause:
            self._timer.cancel()
            self._timer = None

    def _send(self) -> None:
        self._timer = None
        batch, self._gathered = self._gathered[:_AT_ONCE], self._gathered[_AT_ONCE:]
        self._awaited = _awaited(self._gathered)
        if batch:
            self._busy = True
            self._batches.put(batch)

    def _commit_batches(self) -> None:
        """The first thread."""
        while (batch := self._batches.get()) is not None:
            again = any(asked.tried for asked in batch)
            try:
                outcomes = self._ledger.commit([asked.operation for asked in batch], again=again)
            except self._ledger.failures:
                self._tell(self._failed, batch)
                continue
            except Exception as error:  # noqa: BLE001 - a defect is for those who asked; without the thread all would hang
                self._tell(self._succeeded, [(asked, error) for asked in batch])
                continue
            done = list(zip(batch, outcomes, strict=True))
            if settled := [each for each in done if isinstance(each[0].operation, Settlement)]:
                self._committed.put(settled)
            self._tell(self._succeeded, [each for each in done if not isinstance(each[0].operation, Settlement)])
        self._ledger.close()
        self._committed.put(None)

    def _sync_batches(self) -> None:
        """The second thread."""
        next_sync = 0.0
        while (done := self._committed.get()) is not None:
            if self._ledger.needs_sync:
                time.sleep(max(0.0, next_sync - time.monotonic()))
                done = [*done, *self._committed_meanwhile()]
                next_sync = time.monotonic() + _BETWEEN_SYNCS
            try:
                self._ledger.sync()
            except OSError as error:
                done = [(asked, error) for asked, _ in done]
            self._tell(self._deliver, done)

    def _committed_meanwhile(self) -> list[tuple[_Asked, Outcome]]:
        done: list[tuple[_Asked, Outcome]] = []
        with contextlib.suppress(queue.Empty):
            while (more := self._committed.get_nowait()) is not None:
                done += more
            self._committed.put(None)  # It was the last one.
        return done

    def _tell(self, told: Callable[[Any], None], what: Sequence[Any]) -> None:
        self._loop.call_soon_threadsafe(told, what)

    def _succeeded(self, done: Sequence[tuple[_Asked, Outcome]]) -> None:
        self._pause = 0.0
        self._busy = False
        self._deliver(done)
        self._schedule()

    def _failed(self, batch: list[_Asked]) -> None:
        """Nobody knows whether the transaction was committed: what is in it is tried again as long as it may wait."""
        for asked in batch:
            asked.tried = True
        waiting, self._gathered = [*batch, *self._gathered], []
        late: list[_Asked] = []
        now = self._loop.time()
        for asked in waiting:
            asked.deadline = asked.deadline or now + self._patience
            may_wait = now < asked.deadline or isinstance(asked.operation, Settlement)
            (self._gathered if may_wait else late).append(asked)
        self._awaited = _awaited(self._gathered)
        self._pause = min(_LONGEST_PAUSE, self._pause * 2 or _FIRST_PAUSE)
        self._busy = False
        self._give_up(late)
        self._schedule()

    def _give_up(self, late: Sequence[_Asked]) -> None:
        self._deliver([(asked, _unavailable()) for asked in late])
        for asked in late:
            if asked.tried and isinstance(asked.operation, Admission):
                self._undo(asked.operation.request_id)

    def _deliver(self, done: Sequence[tuple[_Asked, Outcome]]) -> None:
        for asked, outcome in done:
            if asked.future.cancelled():
                if isinstance(outcome, Admitted):
                    self._undo(outcome.request_id)
            elif isinstance(outcome, Exception):
                asked.future.set_exception(outcome)
            else:
                asked.future.set_result(outcome)
        self._open -= len(done)
        if not self._open:
            self._all_done.set()

    def _undo(self, request_id: str) -> None:
        """Release the hold of a request that never began, should there be one."""
        self._put(Settlement(request_id, 0, 0, 0, "disconnected")).add_done_callback(_ignore)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()


def _awaited(gathered: Sequence[_Asked]) -> bool:
    return any(not isinstance(asked.operation, Settlement) for asked in gathered)


def _unavailable() -> LedgerUnavailable:
    return LedgerUnavailable("The accounts' database does not answer", retry_after=5)


def _ignore(undone: "asyncio.Future[Settled]") -> None:
    if not undone.cancelled():
        undone.exception()  # NeverAdmitted: there was nothing to undo.
