"""How long jobs will take, reckoned from how long the last ones took."""

import math
import time

from dragoman.accounts.database.thread import DatabaseThread
from dragoman.jobs.storage.reader import JobReader, ModelStatistics

_MAX_AGE_SECONDS = 2.0


def waiting_eta(statistics: ModelStatistics, position: int, slots: int) -> int:
    """Until a job will have ended that has this place among those waiting, from 1 on, where `slots` run at once.

    Those that run now have half of their time behind them, on average. 0 when nothing was measured.
    """
    together = max(1, statistics.running or slots)
    is_next = position <= slots - statistics.running
    begins = 0.0 if is_next else (position - 1) / together + 0.5
    return math.ceil(statistics.mean_seconds * (begins + 1))


def running_eta(statistics: ModelStatistics, age_seconds: float) -> int:
    """Until a job will have ended that was claimed so long ago."""
    return max(0, math.ceil(statistics.mean_seconds - age_seconds))


class EtaEstimator:
    """One process's. Statistics are asked for every few seconds only, however many jobs there are."""

    def __init__(self, thread: DatabaseThread, reader: JobReader, slots: int) -> None:
        """`slots` jobs can run at once."""
        self._thread = thread
        self._reader = reader
        self._slots = slots
        self._cache: dict[str, tuple[float, ModelStatistics]] = {}

    async def of_waiting_job(self, model: str, position: int) -> int:
        """The seconds for a job with this place. Raises Overloaded."""
        return waiting_eta(await self._statistics(model), position, self._slots)

    async def of_new_job(self, model: str, priority: int) -> int:
        """The seconds for a job that comes now. Raises Overloaded."""
        statistics = await self._statistics(model)
        ahead = sum(jobs for waiting, jobs in statistics.waiting_by_priority.items() if waiting <= priority)
        return waiting_eta(statistics, ahead + 1, self._slots)

    async def of_running_job(self, model: str, age_seconds: float) -> int:
        """The seconds for a job that has run for so long. Raises Overloaded."""
        return running_eta(await self._statistics(model), age_seconds)

    async def _statistics(self, model: str) -> ModelStatistics:
        now = time.monotonic()
        read_at, statistics = self._cache.get(model, (-math.inf, None))
        if statistics is None or now - read_at > _MAX_AGE_SECONDS:
            statistics = await self._thread.run(self._reader.statistics, model)
            self._cache[model] = now, statistics
        return statistics
