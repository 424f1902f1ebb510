"""Remove ended jobs that are too old, or that take up too much space together."""

from typing import Any

from sqlalchemy import Connection, Row, delete, func, select

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import idempotent_requests, job_events, job_requests, jobs
from dragoman.jobs.values.options import QueueOptions

SWEEP_SECONDS = 60.0

SWEEP_BATCH = 100
"""Jobs removed in one transaction."""


class Retention:
    """Usable from any thread and by several processes at the same time. Raises DatabaseUnavailable."""

    def __init__(self, database: Database, options: QueueOptions) -> None:
        self._database = database
        self._retention_milliseconds = round(options.result_ttl_hours * 3_600_000)
        self._max_bytes = options.max_result_bytes

    def sweep(self) -> int:
        """Remove a batch of jobs, oldest first: those that are too old, then those above the byte limit.

        Returns how many jobs were removed.
        """
        with self._database.read() as connection:
            stored = connection.execute(select(func.sum(jobs.c.bytes)).where(jobs.c.ended_at.is_not(None))).scalar_one()
        with self._database.write() as connection:
            cutoff = self._database.now(connection).wall - self._retention_milliseconds
            excess = int(stored or 0) - self._max_bytes
            removed: list[Row[Any]] = []
            for row in _oldest(connection):
                if row.ended_at > cutoff and excess <= 0:
                    break
                removed.append(row)
                excess -= row.bytes
            _remove(connection, removed)
        return len(removed)


def _oldest(connection: Connection) -> list[Row[Any]]:
    column = jobs.c
    query = select(column.number, column.id, column.ended_at, column.bytes).where(column.ended_at.is_not(None))
    query = query.order_by(column.ended_at).limit(SWEEP_BATCH).with_for_update(skip_locked=True)
    return list(connection.execute(query))


def _remove(connection: Connection, rows: list[Row[Any]]) -> None:
    numbers = [row.number for row in rows]
    for column in (job_events.c.job, job_requests.c.job, jobs.c.number):
        connection.execute(delete(column.table).where(column.in_(numbers)))
    of_removed_jobs = idempotent_requests.c.job_id.in_([row.id for row in rows])
    connection.execute(delete(idempotent_requests).where(of_removed_jobs))
