"""How many jobs wait and run: the same for all processes, whichever is asked."""

import math
import time
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, func, select

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import jobs
from dragoman.accounts.database.thread import DatabaseThread
from dragoman.jobs.storage.fair_queue import QUEUED, RUNNING

_MAX_AGE_SECONDS = 2.0


class QueueDepth(NamedTuple):
    """One model's."""

    waiting: int = 0
    running: int = 0
    oldest_seconds: float = 0.0
    """How long the job has waited that was submitted first; 0: none waits."""


def read_depths(database: Database) -> dict[str, QueueDepth]:
    """Those of the models that have jobs which wait or run. Raises what database.failures names."""
    column = jobs.c
    # Jobs are numbered as they come: the lowest number is found in the index, the lowest time would not be.
    waiting = _by_model(QUEUED, func.min(column.number).label("first")).subquery()
    oldest = select(waiting.c.model, waiting.c.jobs, column.submitted_at).join(jobs, column.number == waiting.c.first)
    with database.read() as connection:
        now = database.now(connection).wall
        running = {row.model: row.jobs for row in connection.execute(_by_model(RUNNING))}
        depths = {
            row.model: QueueDepth(row.jobs, running.pop(row.model, 0), max(0, now - row.submitted_at) / 1000)
            for row in connection.execute(oldest)
        }
    return depths | {model: QueueDepth(running=count) for model, count in running.items()}


class QueueDepthCache:
    """One process's view, read every few seconds only, however often it is asked for."""

    def __init__(self, thread: DatabaseThread, database: Database) -> None:
        self._thread = thread
        self._database = database
        self._read_at = -math.inf
        self._depths: dict[str, QueueDepth] = {}

    async def current(self) -> dict[str, QueueDepth]:
        """As it was a moment ago. Raises Overloaded."""
        if time.monotonic() - self._read_at > _MAX_AGE_SECONDS:
            self._depths = await self._thread.run(read_depths, self._database)
            self._read_at = time.monotonic()
        return self._depths


def _by_model(state: ColumnElement[str], *more: ColumnElement[int]) -> Select[Any]:
    query = select(jobs.c.model, func.count().label("jobs"), *more)
    return query.where(jobs.c.state == state).group_by(jobs.c.model)
