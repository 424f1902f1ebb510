"""How long jobs will take, reckoned from how long the last ones took."""

import math
import time

from dragoman.accounts.database_thread import DatabaseThread
from dragoman.jobs.reading import JobReader, ModelStatistics

_GOOD_FOR_SECONDS = 2.0


def seconds_to_wait(statistics: ModelStatistics, place: int, slots: int) -> int:
    """Until a job will have ended that has this place among those waiting, from 1 on, where `slots` run at once.

    Those that run now have half of their time behind them, on average. 0 when nothing was measured.
    """
    together = max(1, statistics.running or slots)
    is_next = place <= slots - statistics.running
    begins = 0.0 if is_next else (place - 1) / together + 0.5
    return math.ceil(statistics.seconds * (begins + 1))


def seconds_to_run(statistics: ModelStatistics, age_seconds: float) -> int:
    """Until a job will have ended that was claimed so long ago."""
    return max(0, math.ceil(statistics.seconds - age_seconds))


class Estimates:
    """One process's. Statistics are asked for every few seconds only, however many jobs there are."""

    def __init__(self, thread: DatabaseThread, reader: JobReader, slots: int) -> None:
        """`slots` jobs can run at once."""
        self._thread = thread
        self._reader = reader
        self._slots = slots
        self._known: dict[str, tuple[float, ModelStatistics]] = {}

    async def to_wait(self, model: str, place: int) -> int:
        """The seconds for a job with this place. Raises Overloaded."""
        return seconds_to_wait(await self._of(model), place, self._slots)

    async def to_wait_last(self, model: str, priority: int) -> int:
        """The seconds for a job that comes now. Raises Overloaded."""
        statistics = await self._of(model)
        before = sum(jobs for waiting, jobs in statistics.waiting.items() if waiting <= priority)
        return seconds_to_wait(statistics, before + 1, self._slots)

    async def to_run(self, model: str, age_seconds: float) -> int:
        """The seconds for a job that has run for so long. Raises Overloaded."""
        return seconds_to_run(await self._of(model), age_seconds)

    async def _of(self, model: str) -> ModelStatistics:
        now = time.monotonic()
        asked, statistics = self._known.get(model, (-math.inf, None))
        if statistics is None or now - asked > _GOOD_FOR_SECONDS:
            statistics = await self._thread.run(self._reader.statistics, model)
            self._known[model] = now, statistics
        return statistics
