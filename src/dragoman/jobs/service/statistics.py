"""Queue depths and estimated times, from statistics that are read from the database at most every two seconds."""

import math
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from dragoman.accounts.database.thread import DatabaseThread
from dragoman.jobs.storage.reader import JobReader, ModelStatistics, QueueDepth

_MAX_AGE_SECONDS = 2.0

_Value = TypeVar("_Value")


def waiting_eta(statistics: ModelStatistics, position: int, slots: int) -> int:
    """Return the seconds until the end of a waiting job. 0: nothing was measured yet.

    `position` is its place among the waiting jobs, from 1 on; `slots` is how many jobs run concurrently. Running jobs
    are assumed to be half done on average.
    """
    concurrent = max(1, statistics.running or slots)
    is_next = position <= slots - statistics.running
    rounds_ahead = 0.0 if is_next else (position - 1) / concurrent + 0.5
    return math.ceil(statistics.mean_seconds * (rounds_ahead + 1))


def running_eta(statistics: ModelStatistics, age_seconds: float) -> int:
    """Return the seconds until the end of a job that was claimed `age_seconds` ago."""
    return max(0, math.ceil(statistics.mean_seconds - age_seconds))


class QueueStatistics:
    """Depths and estimated times (ETA, in seconds) of all jobs, for one process. Every method raises Overloaded."""

    def __init__(self, thread: DatabaseThread, reader: JobReader, slots: int) -> None:
        """`slots` is how many jobs run concurrently in this process."""
        self._thread = thread
        self._reader = reader
        self._slots = slots
        self._depths = _Cached(lambda: thread.run(reader.depths))
        self._models: dict[str, _Cached[ModelStatistics]] = {}

    async def depths(self) -> dict[str, QueueDepth]:
        """Return how many jobs of each model wait and run, in all processes."""
        return await self._depths.get()

    async def eta_of_waiting(self, model: str, position: int) -> int:
        """Return the ETA of a waiting job with this place."""
        return waiting_eta(await self._model(model), position, self._slots)

    async def eta_of_new(self, model: str, priority: int) -> int:
        """Return the ETA of a job that is submitted now."""
        statistics = await self._model(model)
        ahead = sum(jobs for waiting, jobs in statistics.waiting_by_priority.items() if waiting <= priority)
        return waiting_eta(statistics, ahead + 1, self._slots)

    async def eta_of_running(self, model: str, age_seconds: float) -> int:
        """Return the ETA of a job that was claimed `age_seconds` ago."""
        return running_eta(await self._model(model), age_seconds)

    async def _model(self, model: str) -> ModelStatistics:
        cached = self._models.get(model)
        if cached is None:
            cached = self._models[model] = _Cached(lambda: self._thread.run(self._reader.statistics, model))
        return await cached.get()


class _Cached(Generic[_Value]):
    """A value that is read again when it is older than `_MAX_AGE_SECONDS`."""

    def __init__(self, read: Callable[[], Awaitable[_Value]]) -> None:
        self._read = read
        self._latest: tuple[float, _Value] | None = None

    async def get(self) -> _Value:
        if self._latest is None or time.monotonic() - self._latest[0] > _MAX_AGE_SECONDS:
            self._latest = time.monotonic(), await self._read()
        return self._latest[1]
