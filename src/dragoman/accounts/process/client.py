"""The event loop's client of the ledger. Operations that arrive while the ledger process is busy share the next
transaction (group commit).

The process, or the thread in its place, only commits (server.py); this client decides on retries, timeouts and
releases. The process may die or hang at any moment: one without heartbeats is killed, and its unanswered operations are
sent to the next process, which finds out which of them were committed.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import msgspec

from dragoman.accounts.database.connections import Database
from dragoman.accounts.ledger.decisions import find_violation
from dragoman.accounts.ledger.operations import (
    AccountLocked,
    Admission,
    Admitted,
    KeyInfo,
    KeyLookup,
    LedgerOperation,
    LedgerOutcome,
    Settled,
    Settlement,
)
from dragoman.accounts.process.handle import LedgerProcessHandle
from dragoman.accounts.process.messages import (
    Committed,
    DatabaseFailed,
    LedgerConfig,
    LedgerReply,
    Synced,
    unpack_outcome,
)
from dragoman.accounts.process.pending import Backoff, PendingOperation, ignore_result, split_overdue, unavailable
from dragoman.accounts.process.statistics import LedgerStatistics
from dragoman.accounts.process.transport import LedgerTransport
from dragoman.core import logs
from dragoman.core.errors import LedgerUnavailable

MAX_WAITING = 10_000
TIMEOUT_SECONDS = 5.0
HEARTBEAT_TIMEOUT_SECONDS = 20.0

_MAX_BATCH_SIZE = 500
"""Operations in one transaction."""

_LINGER_SECONDS = 0.002
"""How long operations linger so that the next admission can share their transaction. Long enough for a client on this
machine to send its next request, too short to be often visible in the accounts."""

_MAX_IN_FLIGHT = 2
"""Transactions at the process, so that the next one is there when it has finished one."""

_MIN_FILL_RATIO = 0.5
"""The size that the second transaction must have, relative to the first: many small ones cost more than they save."""

_LOCK_RETRY_SECONDS = 0.25
"""After which operations are tried again that need rows which somebody else has locked."""

_WATCH_SECONDS = 0.25
"""How often deadlines and the process's silence are checked."""

_START_SECONDS = 10.0
"""How long the client's start waits for the first process. Operations would wait for it with deadlines."""

_SHUTDOWN_GRACE_SECONDS = 10.0
"""How long the shutdown waits for the process, beyond the database's own timeout."""

_log = logs.get_logger(__name__)


class LedgerClient:
    """Admits and settles for the event loop that it was entered in. Use it as an async context manager."""

    def __init__(
        self,
        database: Database,
        process_id: int,
        *,
        max_waiting: int = MAX_WAITING,
        timeout_seconds: float = TIMEOUT_SECONDS,
        heartbeat_timeout_seconds: float = HEARTBEAT_TIMEOUT_SECONDS,
        transport: type[LedgerTransport] = LedgerProcessHandle,
    ) -> None:
        """Holds belong to `process_id`, see recovery.py.

        Up to `max_waiting` operations wait at the same time, each up to `timeout_seconds` for an answer. `transport` is
        the kind of process or thread that the ledger runs in; a process that is silent for longer than
        `heartbeat_timeout_seconds` is replaced.
        """
        self._transport = transport
        self._heartbeat_timeout_seconds = heartbeat_timeout_seconds
        self._outage = database.outage
        self._is_sqlite = database.is_sqlite
        self._config = LedgerConfig(database.url, database.busy_seconds, process_id)
        self._max_waiting = max_waiting
        self._timeout_seconds = timeout_seconds
        self._process: LedgerTransport | None = None
        self._queued: list[PendingOperation] = []
        self._in_flight: deque[list[PendingOperation]] = deque()
        """Transactions that were sent and not answered, oldest first."""
        self._unsynced: deque[tuple[PendingOperation, LedgerOutcome]] = deque()
        """Settlements that are committed and not yet confirmed to be on the disk."""
        self._is_closing = False
        self._is_closed = False
        self._backoff = Backoff(timeout_seconds)
        self._timer: asyncio.Handle | None = None
        self._is_lingering = False
        """Whether the timer only waits for an operation that does not linger."""
        self.pending_count = 0
        """Operations that are not answered yet."""
        self.statistics = LedgerStatistics()
        """What has happened since somebody put others in their place."""
        self._idle = asyncio.Event()
        self._started = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._supervisor = asyncio.create_task(self._supervise())
        self._watch_task = asyncio.create_task(self._watch())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                await self._started.wait()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Refuse new operations, finish the pending ones, and end the process. Recovery settles what remains."""
        self._is_closing = True
        if self.pending_count:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_seconds):
                    await self._idle.wait()
        self._is_closed = True
        self._stop_timer()
        await self._shut_down_process()
        self._watch_task.cancel()
        await asyncio.wait([self._watch_task])
        in_flight = itertools.chain.from_iterable(self._in_flight)
        unresolved = [*in_flight, *(pending for pending, _ in self._unsynced), *self._queued]
        self._resolve([(pending, unavailable()) for pending in unresolved])

    async def admit(self, admission: Admission) -> Admitted:
        """Hold the maximum cost of the request. Raises core.errors, RequestIdTaken, ValueError.

        If the caller is cancelled meanwhile, its request does not run: a hold that is made anyway is released.
        """
        self._check_capacity()
        future: asyncio.Future[Admitted] = self._enqueue(admission)
        try:
            return await future
        except asyncio.CancelledError:
            # Cancelling a task does not cancel a completed future: the request is admitted and its caller is gone.
            if not future.cancelled() and future.exception() is None:
                self._release_hold(admission.request_id)
            raise

    def begin_admission(self, admission: Admission) -> "asyncio.Future[Admitted]":
        """Admit a request that runs in any case. Settle it when the future is done, unless it raises; see `admit`."""
        self._check_capacity()
        return self._enqueue(admission, waits=False, lingers=True)

    def check(self, admission: Admission) -> "asyncio.Future[Admitted]":
        """Check an admission with `is_check`. Raises core.errors."""
        self._check_capacity()
        return self._enqueue(admission)

    def look_up_key(self, lookup: KeyLookup) -> "asyncio.Future[KeyInfo]":
        """Return the key's account and limits. Raises core.errors."""
        self._check_capacity()
        return self._enqueue(lookup)

    def settle(self, settlement: Settlement, *, is_paid: bool = True) -> "asyncio.Future[Settled]":
        """Settle a request, whether or not the future is awaited. A completed settlement survives a loss of power.

        It lingers if nobody pays, and on PostgreSQL, where each transaction waits for the disk. The future raises
        NeverAdmitted, ValueError, LedgerUnavailable if the client is closed before the database answers, and OSError if
        the disk fails.
        """
        return self._enqueue(settlement, waits=False, lingers=not (is_paid and self._is_sqlite), expires=False)

    def _check_capacity(self) -> None:
        if self._is_closing or self.pending_count >= self._max_waiting:
            raise LedgerUnavailable("Too many requests are waiting to be admitted", retry_after=1)

    def _enqueue(
        self, operation: LedgerOperation, *, waits: bool = True, lingers: bool = False, expires: bool = True
    ) -> asyncio.Future[Any]:
        future = self._loop.create_future()
        if (error := find_violation(operation)) is not None:  # Numbers of more than 64 bits cannot even be sent.
            future.set_exception(error)
            return future
        deadline = self._loop.time() + self._timeout_seconds
        self._queued.append(
            PendingOperation(operation=operation, future=future, deadline=deadline, expires=expires, lingers=lingers)
        )
        if self._is_lingering and not lingers:
            self._stop_timer()
        self.pending_count += 1
        self._idle.clear()
        if waits and self._is_sqlite and self._process and not (self._in_flight or self._backoff.seconds):
            self._send_batch()
        else:
            self._schedule()
        return future

    def _schedule(self) -> None:
        if self._process is None or self._timer is not None or self._is_closed or not self._can_send:
            return
        self._is_lingering = not self._backoff.seconds and all(each.lingers for each in self._queued)
        delay = self._backoff.seconds or (_LINGER_SECONDS if self._is_lingering else 0.0)
        # Deferred, so that operations of the same turn of the loop share the transaction.
        self._timer = self._loop.call_later(delay, self._send_batch)

    @property
    def _can_send(self) -> bool:
        if len(self._in_flight) == _MAX_IN_FLIGHT:
            return False
        return len(self._queued) >= (_MIN_FILL_RATIO * len(self._in_flight[0]) if self._in_flight else 1)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_lingering = False

    def _send_batch(self) -> None:
        self._stop_timer()
        if self._process is not None:
            batch, self._queued = self._queued[:_MAX_BATCH_SIZE], self._queued[_MAX_BATCH_SIZE:]
            is_retry = any(pending.may_be_committed for pending in batch)
            self._in_flight.append(batch)
            self._process.commit([pending.operation for pending in batch], is_retry=is_retry)

    async def _supervise(self) -> None:
        """Keep a process running until the client is closed."""
        while not self._is_closed:
            try:
                process = await self._transport.start(self._config)
            except OSError as error:
                _log.error("ledger_process_start_failed", reason=error.strerror)
            else:
                await self._use(process)
            if not self._is_closed:
                self._handle_process_loss()
                await asyncio.sleep(self._backoff.seconds)

    async def _use(self, process: LedgerTransport) -> None:
        """Commit by a process until it ends."""
        self._process = process
        self._started.set()
        try:
            if self._is_closed:
                process.finish()
            self._schedule()
            await process.run(self._handle_reply)
        except asyncio.CancelledError:
            process.kill()
            raise
        finally:
            self._process = None
            status = await process.wait()
        if not self._is_closed:
            _log.error("ledger_process_exited", status=status)

    async def _watch(self) -> None:
        """Expire operations at their deadlines, and kill a process without heartbeats.

        The silence is counted in turns of this loop: if this process itself was stopped, that is no ledger's silence.
        """
        process, frames, silent_seconds = self._process, 0, 0.0
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            self._expire_overdue()
            silent_seconds += _WATCH_SECONDS
            if self._process is None or (self._process, self._process.frames_received) != (process, frames):
                process, silent_seconds = self._process, 0.0
                frames = 0 if process is None else process.frames_received
            is_silent = silent_seconds >= self._heartbeat_timeout_seconds
            if process is not None and process.sends_heartbeats and is_silent:
                _log.error("ledger_process_hung", silent_seconds=silent_seconds)
                process.kill()
                silent_seconds = 0.0

    def _expire_overdue(self) -> None:
        """Answer the callers whose deadline has passed.

        Operations that were not sent are dropped. The others are resolved when their outcome is known.
        """
        self._queue_again(())
        now = self._loop.time()
        for pending in itertools.chain.from_iterable(self._in_flight):
            if pending.is_overdue(now) and not pending.future.done():
                self._outage.fail("it does not answer")
                pending.future.set_exception(unavailable())

    async def _shut_down_process(self) -> None:
        if self._process is not None:
            self._process.finish()
        try:
            await asyncio.wait([self._supervisor], timeout=self._config.busy_seconds + _SHUTDOWN_GRACE_SECONDS)
        finally:
            self._supervisor.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._supervisor

    def _handle_reply(self, reply: LedgerReply) -> None:
        match reply:
            case Committed(outcomes, synced):
                batch = self._in_flight.popleft()
                if batch:
                    self.statistics.answer_seconds.append(self._loop.time() - batch[0].deadline + self._timeout_seconds)
                done = list(zip(batch, map(unpack_outcome, outcomes), strict=True))
                if locked := [pending for pending, outcome in done if isinstance(outcome, AccountLocked)]:
                    self._loop.call_later(_LOCK_RETRY_SECONDS, self._retry_locked, locked)
                    done = [each for each in done if not isinstance(each[1], AccountLocked)]
                self._backoff.seconds = 0.0
                if self._outage.is_active:
                    self._outage.succeed()
                if not synced:
                    self._unsynced.extend(each for each in done if isinstance(each[0].operation, Settlement))
                    done = [each for each in done if not isinstance(each[0].operation, Settlement)]
                self._resolve(done)
                self._schedule()
            case Synced(settlements, error):
                done = [self._unsynced.popleft() for _ in range(settlements)]
                self._resolve(done if error is None else [(pending, OSError(error)) for pending, _ in done])
            case DatabaseFailed(reason):
                self._outage.fail(reason)
                self.statistics.database_failures += 1
                self._retry_or_expire(self._in_flight.popleft())

    def _handle_process_loss(self) -> None:
        """Retry or expire the operations of a process that ended: their outcomes are lost."""
        self.statistics.process_failures += 1
        lost = [*(pending for pending, _ in self._unsynced), *itertools.chain.from_iterable(self._in_flight)]
        self._unsynced.clear()
        self._in_flight.clear()
        self._retry_or_expire(lost)

    def _retry_or_expire(self, batch: Sequence[PendingOperation]) -> None:
        """Retry operations that may or may not be committed; fail those whose deadline has passed."""
        for pending in batch:
            pending.may_be_committed = True
        self._backoff.grow()
        self._queue_again(batch)

    def _retry_locked(self, locked: Sequence[PendingOperation]) -> None:
        if self._is_closed:
            self._resolve([(pending, unavailable()) for pending in locked])
        else:
            self._queue_again(locked)

    def _queue_again(self, operations: Sequence[PendingOperation]) -> None:
        expired, self._queued = split_overdue([*operations, *self._queued], self._loop.time())
        self._expire(expired)
        self._schedule()

    def _expire(self, expired: Sequence[PendingOperation]) -> None:
        self._resolve([(pending, unavailable()) for pending in expired])
        for pending in expired:
            if pending.may_be_committed and isinstance(pending.operation, Admission):
                self._release_late_hold(pending.operation)

    def _resolve(self, done: Sequence[tuple[PendingOperation, LedgerOutcome]]) -> None:
        for pending, outcome in done:
            if pending.future.done():  # It was cancelled, or its deadline has passed.
                if isinstance(outcome, Admitted):
                    self._release_hold(outcome.request_id)
            elif isinstance(outcome, Exception):
                pending.future.set_exception(outcome)
            else:
                pending.future.set_result(outcome)
        self.pending_count -= len(done)
        if not self.pending_count:
            self._idle.set()

    def _release_late_hold(self, admission: Admission) -> None:
        """Release the hold of a request that never ran, also if the transaction that makes it is still to be committed.

        That transaction has locked the rows of the key. A check waits for them; a settlement finds no hold, and ends.
        """
        if admission.key_digest is None:  # Nothing is held.
            self._release_hold(admission.request_id)
            return
        check = msgspec.structs.replace(admission, is_check=True)
        self._enqueue(check, waits=False, expires=False).cancel()  # Nobody waits for it: what it finds is released.
        self._queued[-1].may_be_committed = True

    def _release_hold(self, request_id: str) -> None:
        """Release the hold, if any, of a request that never ran."""
        self.settle(Settlement.uncharged(request_id, "disconnected")).add_done_callback(ignore_result)
