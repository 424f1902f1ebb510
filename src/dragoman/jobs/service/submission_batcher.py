"""Group commit: concurrent submissions are accepted in one transaction and share one sync to disk."""

import asyncio
import time
from typing import NamedTuple

import structlog

from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core.errors import Overloaded
from dragoman.jobs.storage.reader import JobReader
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.values.rows import AcceptedJob, Submission

_MAX_BATCH = 100
_SUBMIT_TIMEOUT_SECONDS = 5.0
"""How long a submission is retried while the database does not answer."""

_RETRY_SECONDS = 0.1

_MAX_COUNT_AGE_SECONDS = 2.0
_MIN_RECOUNT_SECONDS = 0.1
"""Waiting jobs are not counted for every submission, so other processes may exceed the limit in between."""

_FULL_RETRY_AFTER_SECONDS = 5

_log = structlog.get_logger(__name__)


class _PendingSubmission(NamedTuple):
    """A submission and the future of its submitter."""

    submission: Submission
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
        max_waiting: int,
    ) -> None:
        """`max_waiting` limits the waiting jobs. `reader` is used on `read_thread`, `store` on `write_thread`."""
        self._read_thread = read_thread
        self._reader = reader
        self._write_thread = write_thread
        self._store = store
        self._max_waiting = max_waiting
        self._waiting = 0
        self._counted_at = 0.0
        self._pending: list[_PendingSubmission] = []
        self._send_task: asyncio.Task[None] | None = None

    async def accept(self, submission: Submission) -> AcceptedJob:
        """Store the submission and return its job.

        Raises Overloaded if the queue is full or the database does not answer, IdempotencyConflict and what an
        admission raises.
        """
        await self._reserve_slot()
        loop = asyncio.get_running_loop()
        pending = _PendingSubmission(submission, loop.create_future(), loop.time() + _SUBMIT_TIMEOUT_SECONDS)
        self._pending.append(pending)
        if self._send_task is None:
            self._send_task = asyncio.create_task(self._send())
        return await pending.future

    async def close(self) -> None:
        """Wait for pending submissions."""
        if self._send_task is not None:
            await asyncio.wait([self._send_task])

    async def _reserve_slot(self) -> None:
        age = time.monotonic() - self._counted_at
        full = self._waiting >= self._max_waiting
        if age > (_MIN_RECOUNT_SECONDS if full else _MAX_COUNT_AGE_SECONDS):
            self._counted_at = time.monotonic()
            self._waiting = await self._read_thread.run(self._reader.count_waiting)
        if self._waiting >= self._max_waiting:
            raise Overloaded(f"The queue is full: {self._waiting} requests are waiting", _FULL_RETRY_AFTER_SECONDS)
        self._waiting += 1

    async def _send(self) -> None:
        try:
            while self._pending:
                batch, self._pending = self._pending[:_MAX_BATCH], self._pending[_MAX_BATCH:]
                await self._send_batch(batch)
        finally:
            self._send_task = None

    async def _send_batch(self, batch: list[_PendingSubmission]) -> None:
        try:
            results = await self._write_thread.run(self._store.accept, [pending.submission for pending in batch])
        except Overloaded as error:
            # They may have been stored: the next attempt finds them then.
            now = asyncio.get_running_loop().time()
            self._pending = [*(pending for pending in batch if now < pending.deadline), *self._pending]
            for pending in batch:
                if now >= pending.deadline:
                    _resolve(pending, error)
            await asyncio.sleep(_RETRY_SECONDS)
        except Exception as error:  # noqa: BLE001 - a defect is raised for the submitters; nothing else awaits this task
            for pending in batch:
                _resolve(pending, error)
        else:
            for pending, result in zip(batch, results, strict=True):
                _resolve(pending, result)


def _resolve(pending: _PendingSubmission, result: AcceptedJob | Exception) -> None:
    if pending.future.cancelled():
        return
    if isinstance(result, Exception):
        pending.future.set_exception(result)
    else:
        pending.future.set_result(result)
