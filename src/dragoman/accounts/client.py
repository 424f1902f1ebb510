"""The event loop's way to the ledger: whatever has gathered while the ledger process was busy is committed together.

One client alone waits for a transaction; many at once share it (group commit). The process, or the thread that stands
for it, only works (commit_loop.py); what is retried, given up or undone is decided here. It may die at any moment: what
it had not answered is asked again of the next one, which finds what the last one did.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import msgspec
import structlog

from dragoman.accounts.child import LedgerProcess
from dragoman.accounts.database import Database
from dragoman.accounts.messages import Committed, DatabaseFailed, Opening, Reply, Synced, unpacked
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
from dragoman.accounts.transport import LedgerTransport

MOST_WAITING = 10_000
PATIENCE_SECONDS = 5.0

_AT_ONCE = 500
"""Operations in one transaction."""

_COMPANY_SECONDS = 0.002
"""How long a settlement waits for an admission to share a transaction with: one client's next request pays for its last
one. Long enough for a client on this machine to ask again, too short for anybody to find it missing often."""

_UNDER_WAY = 2
"""Transactions at the process, so that it finds the next one when it has finished one."""

_SECOND_SHARE = 0.5
"""How much of the first one's size the second must have: many small transactions would cost more than they save."""

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0

_LAST_TRANSACTION_SECONDS = 10.0
"""How long the end waits for the process, beyond the database's own patience."""

_log = structlog.get_logger(__name__)


class _Asked(msgspec.Struct, eq=False):
    """An operation and who waits for it."""

    operation: Operation
    future: asyncio.Future[Any]
    deadline: float | None = None
    """On the event loop's clock, since the database first failed. Settlements are never given up before the end."""
    tried: bool = False
    """Whether a transaction with it was begun whose end is not known."""


class LedgerClient:
    """Admits and settles for the event loop that it was started in. Use it as an async context manager."""

    def __init__(
        self,
        database: Database,
        process_id: int,
        *,
        most_waiting: int = MOST_WAITING,
        patience_seconds: float = PATIENCE_SECONDS,
        transport: type[LedgerTransport] = LedgerProcess,
    ) -> None:
        """Holds are taken in the name of `process_id`, see recovery.py.

        `most_waiting` operations wait at once, and `patience_seconds` for a database that does not answer.
        `transport` says where the ledger works.
        """
        self._transport = transport
        self._opening = Opening(database.url, database.busy_seconds, process_id)
        self._most_waiting = most_waiting
        self._patience = patience_seconds
        self._process: LedgerTransport | None = None
        self._gathered: list[_Asked] = []
        self._sent: deque[list[_Asked]] = deque()
        """Transactions that were sent and not answered, the oldest first."""
        self._unsynced: deque[tuple[_Asked, Outcome]] = deque()
        """Settlements that are committed, and not known to be on the disk."""
        self._closing = False
        self._ended = False
        self._pause = 0.0
        self._timer: asyncio.Handle | None = None
        self._in_no_hurry = False
        """Whether the timer waits only for company."""
        self._open = 0
        self._all_done = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._running = asyncio.create_task(self._keep_running())
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Refuse newcomers, finish what waits, and end the process. What cannot be settled now is left to recovery."""
        self._closing = True
        if self._open:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await self._all_done.wait()
        self._ended = True
        self._stop_timer()
        await self._end_process()
        unanswered = [
            *itertools.chain.from_iterable(self._sent),
            *(asked for asked, _ in self._unsynced),
            *self._gathered,
        ]
        self._deliver([(asked, _unavailable()) for asked in unanswered])

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
        if self._in_no_hurry and not isinstance(operation, Settlement):
            self._stop_timer()
        self._open += 1
        self._all_done.clear()
        self._schedule()
        return future

    def _schedule(self) -> None:
        if self._process is None or self._timer is not None or self._ended or not self._may_send:
            return
        self._in_no_hurry = not self._pause and _are_settlements(self._gathered)
        pause = self._pause or (_COMPANY_SECONDS if self._in_no_hurry else 0.0)
        # Not at once: what else arrives in this turn of the loop shares the transaction.
        self._timer = self._loop.call_later(pause, self._send) if pause else self._loop.call_soon(self._send)

    @property
    def _may_send(self) -> bool:
        if len(self._sent) == _UNDER_WAY:
            return False
        return len(self._gathered) >= (_SECOND_SHARE * len(self._sent[0]) if self._sent else 1)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._in_no_hurry = False

    def _send(self) -> None:
        self._stop_timer()
        if self._process is not None:
            batch, self._gathered = self._gathered[:_AT_ONCE], self._gathered[_AT_ONCE:]
            again = any(asked.tried for asked in batch)
            self._sent.append(batch)
            self._process.commit([asked.operation for asked in batch], again=again)

    async def _keep_running(self) -> None:
        """Start the process whenever there is none, until the end."""
        while not self._ended:
            try:
                process = await self._transport.start(self._opening)
            except OSError as error:
                _log.error("accounts_ledger_process_not_started", reason=error.strerror)
            else:
                await self._listen(process)
            if not self._ended:
                self._lose()
                await asyncio.sleep(self._pause)

    async def _listen(self, process: LedgerTransport) -> None:
        """For as long as it lives."""
        self._process = process
        try:
            if self._ended:
                process.finish()
            self._schedule()
            async for reply in process.replies():
                self._hear(reply)
        except asyncio.CancelledError:
            process.kill()
            raise
        finally:
            self._process = None
            status = await process.end()
        if not self._ended:
            _log.error("accounts_ledger_process_ended", status=status)

    async def _end_process(self) -> None:
        if self._process is not None:
            self._process.finish()
        try:
            await asyncio.wait([self._running], timeout=self._opening.busy_seconds + _LAST_TRANSACTION_SECONDS)
        finally:
            self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running

    def _hear(self, reply: Reply) -> None:
        match reply:
            case Committed(outcomes, synced):
                done = list(zip(self._sent.popleft(), map(unpacked, outcomes), strict=True))
                self._pause = 0.0
                if not synced:
                    self._unsynced.extend(each for each in done if isinstance(each[0].operation, Settlement))
                    done = [each for each in done if not isinstance(each[0].operation, Settlement)]
                self._deliver(done)
                self._schedule()
            case Synced(settlements, error):
                done = [self._unsynced.popleft() for _ in range(settlements)]
                self._deliver(done if error is None else [(asked, OSError(error)) for asked, _ in done])
            case DatabaseFailed():
                self._fail(self._sent.popleft())

    def _lose(self) -> None:
        """There is no process, and nobody will hear what became of what it had."""
        lost = [*(asked for asked, _ in self._unsynced), *itertools.chain.from_iterable(self._sent)]
        self._unsynced.clear()
        self._sent.clear()
        self._fail(lost)

    def _fail(self, batch: Sequence[_Asked]) -> None:
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
        self._pause = min(_LONGEST_PAUSE, self._pause * 2 or _FIRST_PAUSE)
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


def _are_settlements(gathered: Sequence[_Asked]) -> bool:
    return all(isinstance(asked.operation, Settlement) for asked in gathered)


def _unavailable() -> LedgerUnavailable:
    return LedgerUnavailable("The accounts' database does not answer", retry_after=5)


def _ignore(undone: "asyncio.Future[Settled]") -> None:
    if not undone.cancelled():
        undone.exception()  # NeverAdmitted: there was nothing to undo.
