"""Group commit: concurrent submissions are accepted in one transaction and share one sync to disk."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from dragoman.accounts.database.thread import DatabaseThread
from dragoman.accounts.ledger.operations import AccountLocked
from dragoman.core import logs
from dragoman.core.bounded_dicts import put_last
from dragoman.core.errors import Limited, Overloaded
from dragoman.core.jobs import SubmissionUnconfirmed
from dragoman.jobs.storage.reader import Backlog, JobReader
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.storage.transactions.accept import AcceptResult
from dragoman.jobs.storage.transactions.finalize import account_locked
from dragoman.jobs.values.batches import batch_length
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.values.payloads import pack_off_the_loop
from dragoman.jobs.values.rows import AcceptedJob, PackedSubmission, Submission

_MAX_BATCH = 100
_SUBMIT_TIMEOUT_SECONDS = 5.0
"""How long a submission is retried while the database does not answer, or its account is locked."""

_RETRY_SECONDS = 0.1

_MAX_COUNT_AGE_SECONDS = 2.0
_MIN_RECOUNT_SECONDS = 0.1
"""Waiting jobs are not counted for every submission, so other processes may exceed the limit in between."""

_MAX_OWNERS = 10_000
"""Owners whose waiting jobs are known. Those of others are counted for their next submission."""

_FULL_RETRY_AFTER_SECONDS = 5

_log = logs.get_logger(__name__)


class _PendingSubmission(NamedTuple):
    """A submission and the future of its submitter."""

    packed: PackedSubmission
    future: asyncio.Future[AcceptedJob]
    deadline: float


class SubmissionBatcher:
    """Accepts the submissions of one process, up to the limit of waiting jobs."""

    def __init__(
        self,
        *,
        read_thread: DatabaseThread,
        reader: JobReader,
        write_thread: DatabaseThread,
        store: JobStore,
        options: QueueOptions,
        timeout_seconds: float = _SUBMIT_TIMEOUT_SECONDS,
    ) -> None:
        """`options` limits the waiting jobs. `reader` is used on `read_thread`, `store` on `write_thread`."""
        self._timeout_seconds = timeout_seconds
        self._read_thread = read_thread
        self._reader = reader
        self._write_thread = write_thread
        self._store = store
        self._backlog = _CountedBacklog(Backlog(options.max_queued_jobs, options.max_queued_bytes))
        self._owner_limit = Backlog(options.max_queued_jobs_per_owner, options.max_queued_bytes_per_owner)
        self._owner_backlogs: OrderedDict[str, _CountedBacklog] = OrderedDict()
        self._pending: list[_PendingSubmission] = []
        self._send_task: asyncio.Task[None] | None = None

    async def accept(self, submission: Submission) -> AcceptedJob:
        """Store the submission and return its job.

        Raises Overloaded if the queue is full or the database does not answer, SubmissionUnconfirmed if it may have
        been stored and an equal one would not find it, Limited if the owner's share of the queue is full,
        IdempotencyConflict and what an admission raises.
        """
        # Not within the transaction, for whose end all other writers wait.
        packed = await pack_off_the_loop(submission)
        try:
            await self._reserve(submission.owner, packed.size)
        except (Limited, Overloaded):
            # A request that was accepted before takes no room.
            if (accepted := await self._find_accepted(submission)) is not None:
                return accepted
            raise
        loop = asyncio.get_running_loop()
        pending = _PendingSubmission(packed, loop.create_future(), loop.time() + self._timeout_seconds)
        self._pending.append(pending)
        if self._send_task is None:
            self._send_task = asyncio.create_task(self._send())
        return await pending.future

    async def close(self) -> None:
        """Wait for pending submissions."""
        if self._send_task is not None:
            await asyncio.wait([self._send_task])

    async def _reserve(self, owner: str, size: int) -> None:
        """Count a job of `size` bytes. Raises Overloaded or Limited if there is no room for it."""
        if not await self._has_room(self._backlog, size, None):
            waiting = self._backlog.counted
            message = f"The queue is full: {waiting.jobs} requests of {waiting.bytes} bytes are waiting"
            raise Overloaded(message, _FULL_RETRY_AFTER_SECONDS)
        if owner:  # Without keys all callers are one owner, which has nobody to share with.
            own = self._owner_backlog(owner)
            if not await self._has_room(own, size, owner):
                message = f"You have {own.counted.jobs} requests of {own.counted.bytes} bytes waiting in the queue"
                raise Limited(message, _FULL_RETRY_AFTER_SECONDS)
            own.add(size)
        self._backlog.add(size)

    async def _find_accepted(self, submission: Submission) -> AcceptedJob | None:
        request = submission.draft.idempotent_request
        job_id = None if request is None else await self._read_thread.run(self._reader.job_of_request, request)
        return None if job_id is None else AcceptedJob(job_id, repeated=True)

    async def _has_room(self, backlog: "_CountedBacklog", size: int, owner: str | None) -> bool:
        if backlog.is_outdated(size):
            backlog.counted_at = time.monotonic()
            backlog.counted = await self._read_thread.run(self._reader.backlog, owner)
        return backlog.has_room(size)

    def _owner_backlog(self, owner: str) -> "_CountedBacklog":
        backlog = self._owner_backlogs.get(owner) or _CountedBacklog(self._owner_limit)
        return put_last(self._owner_backlogs, owner, backlog, _MAX_OWNERS)

    async def _send(self) -> None:
        try:
            while self._pending:
                count = batch_length([pending.packed.size for pending in self._pending[:_MAX_BATCH]])
                batch, self._pending = self._pending[:count], self._pending[count:]
                await self._send_batch(batch)
        finally:
            self._send_task = None

    async def _send_batch(self, batch: list[_PendingSubmission]) -> None:
        try:
            results = await self._write_thread.run(self._store.accept, [pending.packed for pending in batch])
        except Overloaded as error:
            # They may have been stored: the next attempt finds them then.
            now = asyncio.get_running_loop().time()
            self._pending = [*(pending for pending in batch if now < pending.deadline), *self._pending]
            for pending in batch:
                if now >= pending.deadline:
                    _resolve(pending, _unconfirmed(pending, error))
            await asyncio.sleep(_RETRY_SECONDS)
        except Exception as error:  # noqa: BLE001 - a defect is raised for the submitters; nothing else awaits this task
            for pending in batch:
                _resolve(pending, error)
        else:
            locked = self._resolve_unlocked(batch, results)
            self._pending += locked
            if locked and len(self._pending) == len(locked):
                await asyncio.sleep(_RETRY_SECONDS)

    def _resolve_unlocked(
        self, batch: Sequence[_PendingSubmission], results: Sequence[AcceptResult]
    ) -> list[_PendingSubmission]:
        """Return the submissions that are to be tried again, since others keep their accounts locked."""
        now = asyncio.get_running_loop().time()
        locked: list[_PendingSubmission] = []
        for pending, result in zip(batch, results, strict=True):
            if not isinstance(result, AccountLocked):
                _resolve(pending, result)
            elif now < pending.deadline:
                locked.append(pending)
            else:
                _resolve(pending, account_locked())
        return locked


class _CountedBacklog:
    """The waiting jobs of all owners or of one, counted now and then, and those that were added since."""

    def __init__(self, limit: Backlog) -> None:
        self.counted = Backlog()
        self.counted_at = -math.inf
        self._limit = limit

    def has_room(self, size: int) -> bool:
        """Whether a job of `size` bytes may be added."""
        return self.counted.jobs < self._limit.jobs and self.counted.bytes + size <= self._limit.bytes

    def is_outdated(self, size: int) -> bool:
        """Whether the jobs must be counted before a job of `size` bytes is added or refused."""
        age = time.monotonic() - self.counted_at
        return age > (_MAX_COUNT_AGE_SECONDS if self.has_room(size) else _MIN_RECOUNT_SECONDS)

    def add(self, size: int) -> None:
        """Add a job."""
        self.counted = Backlog(self.counted.jobs + 1, self.counted.bytes + size)


def _unconfirmed(pending: _PendingSubmission, error: Overloaded) -> Overloaded:
    """Return the error of a submission that may have been stored, and that nobody finds without its key."""
    if pending.packed.submission.draft.idempotent_request is not None:
        return error
    return SubmissionUnconfirmed(error.message, error.retry_after)


def _resolve(pending: _PendingSubmission, result: AcceptedJob | Exception) -> None:
    if pending.future.cancelled():
        return
    if isinstance(result, Exception):
        pending.future.set_exception(result)
    else:
        pending.future.set_result(result)
