"""Submissions: those that arrive together are accepted in one transaction and wait for the disk together."""

import asyncio
import time
from typing import NamedTuple

import structlog

from dragoman.accounts.database_thread import DatabaseThread
from dragoman.core.errors import Overloaded
from dragoman.jobs.reading import JobReader
from dragoman.jobs.rows import Accepted, Submission
from dragoman.jobs.store import JobStore

_AT_ONCE = 100
_PATIENCE_SECONDS = 5.0
"""How long a submission waits for a database that does not answer."""

_PAUSE_SECONDS = 0.1

_COUNT_GOOD_FOR_SECONDS = 2.0
_LEAST_BETWEEN_COUNTS_SECONDS = 0.1
"""Waiting jobs are not counted for each submission; what other processes add meanwhile may exceed the limit."""

_FULL_RETRY_SECONDS = 5

_log = structlog.get_logger(__name__)


class _Asked(NamedTuple):
    """A submission and who waits for it."""

    submission: Submission
    future: asyncio.Future[Accepted]
    deadline: float


class Intake:
    """One process's."""

    def __init__(
        self, reading: DatabaseThread, reader: JobReader, writing: DatabaseThread, store: JobStore, most_waiting: int
    ) -> None:
        """At most `most_waiting` jobs wait. The threads are those that `reader` and `store` are used on."""
        self._reading = reading
        self._reader = reader
        self._writing = writing
        self._store = store
        self._most_waiting = most_waiting
        self._waiting = 0
        self._counted_at = 0.0
        self._gathered: list[_Asked] = []
        self._sending: asyncio.Task[None] | None = None

    async def accept(self, submission: Submission) -> Accepted:
        """The job. Raises Overloaded when the queue is full or cannot be written to, and the refusals of the ledger."""
        await self._take_room()
        loop = asyncio.get_running_loop()
        asked = _Asked(submission, loop.create_future(), loop.time() + _PATIENCE_SECONDS)
        self._gathered.append(asked)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await asked.future

    async def close(self) -> None:
        """Wait for what is being accepted."""
        if self._sending is not None:
            await asyncio.wait([self._sending])

    async def _take_room(self) -> None:
        age = time.monotonic() - self._counted_at
        full = self._waiting >= self._most_waiting
        if age > (_LEAST_BETWEEN_COUNTS_SECONDS if full else _COUNT_GOOD_FOR_SECONDS):
            self._counted_at = time.monotonic()
            self._waiting = await self._reading.run(self._reader.waiting)
        if self._waiting >= self._most_waiting:
            raise Overloaded(f"The queue is full: {self._waiting} requests are waiting", _FULL_RETRY_SECONDS)
        self._waiting += 1

    async def _send(self) -> None:
        try:
            while self._gathered:
                batch, self._gathered = self._gathered[:_AT_ONCE], self._gathered[_AT_ONCE:]
                await self._send_batch(batch)
        finally:
            self._sending = None

    async def _send_batch(self, batch: list[_Asked]) -> None:
        try:
            answers = await self._writing.run(self._store.accept, [asked.submission for asked in batch])
        except Overloaded as error:
            # Whether they were stored is not known; trying again finds them if they were.
            now = asyncio.get_running_loop().time()
            self._gathered = [*(asked for asked in batch if now < asked.deadline), *self._gathered]
            for asked in batch:
                if now >= asked.deadline:
                    _answer(asked, error)
            await asyncio.sleep(_PAUSE_SECONDS)
        except Exception as error:  # noqa: BLE001 - a defect is for those who asked; nobody else waits for this task
            for asked in batch:
                _answer(asked, error)
        else:
            for asked, answer in zip(batch, answers, strict=True):
                _answer(asked, answer)


def _answer(asked: _Asked, answer: Accepted | Exception) -> None:
    if asked.future.cancelled():
        return
    if isinstance(answer, Exception):
        asked.future.set_exception(answer)
    else:
        asked.future.set_result(answer)
