"""Remove ended jobs that are too old, or that take up too much space together."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, delete, func, select

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.shares import excess_by_owner, rows_of_excess
from dragoman.accounts.database.tables import idempotent_requests, job_events, job_requests, jobs
from dragoman.jobs.values.batches import batch_length
from dragoman.jobs.values.options import QueueOptions

SWEEP_SECONDS = 60.0

_SWEEP_BATCH = 100
"""Jobs removed in one transaction, if they are not too large together."""


class Retention:
    """Usable from any thread and by several processes at the same time. Raises DatabaseUnavailable."""

    def __init__(self, database: Database, options: QueueOptions) -> None:
        self._database = database
        self._retention_milliseconds = round(options.result_ttl_hours * 3_600_000)
        self._max_bytes = options.max_result_bytes

    def sweep(self) -> int:
        """Remove a batch of jobs, oldest first: those that are too old, or else those above the byte limit.

        Above the limit, the owners with the most stored lose their oldest jobs. Returns how many jobs were removed.
        """
        with self._database.read() as connection:
            stored = {row.owner: int(row.bytes) for row in connection.execute(_stored_by_owner())}
        with self._database.write() as connection:
            cutoff = self._database.now(connection).wall - self._retention_milliseconds
            removed = _oldest(connection, jobs.c.ended_at <= cutoff, _SWEEP_BATCH)
            if not removed:
                removed = _above_limit(connection, excess_by_owner(stored, self._max_bytes))
            if removed:
                removed = removed[: batch_length([row.bytes for row in removed])]
                _remove(connection, removed)
        return len(removed)

    def remove(self, number: int) -> None:
        """Remove a job that has ended, whatever its age."""
        query = select(jobs.c.number, jobs.c.id).where(jobs.c.number == number, jobs.c.ended_at.is_not(None))
        with self._database.write() as connection:
            _remove(connection, list(connection.execute(query.with_for_update())))


def _above_limit(connection: Connection, excess_bytes: Mapping[str, int]) -> list[Row[Any]]:
    """Return a batch of the oldest jobs of each owner, of as many bytes as it has too many."""
    removed: list[Row[Any]] = []
    for owner, excess in excess_bytes.items():
        if len(removed) >= _SWEEP_BATCH:
            break
        removed += rows_of_excess(_oldest(connection, jobs.c.owner == owner, _SWEEP_BATCH - len(removed)), excess)
    return removed


def _stored_by_owner() -> Select[Any]:
    column = jobs.c
    query = select(column.owner, func.sum(column.bytes).label("bytes"))
    return query.where(column.ended_at.is_not(None)).group_by(column.owner)


def _oldest(connection: Connection, condition: ColumnElement[bool], limit: int) -> list[Row[Any]]:
    column = jobs.c
    query = select(column.number, column.id, column.bytes).where(column.ended_at.is_not(None), condition)
    query = query.order_by(column.ended_at).limit(limit).with_for_update(skip_locked=True)
    return list(connection.execute(query))


def _remove(connection: Connection, rows: list[Row[Any]]) -> None:
    numbers = [row.number for row in rows]
    for column in (job_events.c.job, job_requests.c.job, jobs.c.number):
        connection.execute(delete(column.table).where(column.in_(numbers)))
    of_removed_jobs = idempotent_requests.c.job_id.in_([row.id for row in rows])
    connection.execute(delete(idempotent_requests).where(of_removed_jobs))
