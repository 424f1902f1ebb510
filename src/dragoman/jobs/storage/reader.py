"""Looking jobs up, for a thread of its own: readers wait for no writer."""

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import exists, func, literal, select, tuple_

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import job_events, job_requests, jobs
from dragoman.core.events import Event
from dragoman.core.jobs import JobState
from dragoman.jobs.storage.fair_queue import FINISHED, QUEUED, RUNNING
from dragoman.jobs.storage.statements import is_abandoned, is_expired
from dragoman.jobs.values.options import LEASE_SECONDS
from dragoman.jobs.values.payloads import unpack_events

_SAMPLED_JOBS = 50
"""Finished jobs that the time for the next one is reckoned from."""

_MAX_EVENT_ROWS = 50
"""Rows of events that are read at once."""


class JobSnapshot(NamedTuple):
    """A job as it stands."""

    number: int
    id: str
    owner: str
    model: str
    priority: int
    round: int
    state: JobState
    age: int | None
    """Milliseconds since it was claimed; None: it never was."""
    events: int
    error: bytes | None


class PendingWork(NamedTuple):
    """What there is to do."""

    has_waiting: bool
    """Jobs wait."""
    has_overdue: bool
    """Jobs have been left behind, or have waited for too long."""


class ModelStatistics(NamedTuple):
    """How a model's jobs have fared lately."""

    mean_seconds: float
    """What one took from its claim to its end, on average; 0: none has ended."""
    running: int
    waiting_by_priority: dict[int, int]
    """Jobs by their priorities."""


class EventBatch(NamedTuple):
    """Events that follow one another."""

    first: int
    """The number of the first."""
    events: list[Event]


class JobReader:
    """Raises what database.failures names."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, job_id: str) -> JobSnapshot | None:
        """The job with this id."""
        columns = (jobs.c.claimed_at if name == "age" else jobs.c[name] for name in JobSnapshot._fields)
        with self._database.read() as connection:
            row = connection.execute(select(*columns).where(jobs.c.id == job_id)).one_or_none()
            now = self._database.now(connection).wall
        if row is None:
            return None
        snapshot = JobSnapshot._make(row)
        return snapshot if snapshot.age is None else snapshot._replace(age=now - snapshot.age)

    def stored_request(self, number: int) -> bytes | None:
        """What the job's answer is told as, packed."""
        with self._database.read() as connection:
            stored_request = connection.execute(
                select(job_requests.c.form).where(job_requests.c.job == number)
            ).scalar()
        return None if stored_request is None else bytes(stored_request)

    def position(self, snapshot: JobSnapshot) -> int:
        """How many of the model's jobs are before this one, without regard to ageing; and itself."""
        column = jobs.c
        waiting = select(func.count()).select_from(jobs).where(column.state == QUEUED, column.model == snapshot.model)
        own_key = tuple_(literal(snapshot.round), literal(snapshot.number))
        first = waiting.where(column.priority < snapshot.priority)
        same = waiting.where(column.priority == snapshot.priority, tuple_(column.round, column.number) < own_key)
        with self._database.read() as connection:
            return int(connection.execute(first).scalar_one() + connection.execute(same).scalar_one()) + 1

    def events(self, number: int, since: int) -> list[EventBatch]:
        """Stored events from the one with the number `since` on, as many as are read at once."""
        column = job_events.c
        # The row that `since` is in may have begun before it.
        begin = select(func.max(column.first)).where(column.job == number, column.first <= since).scalar_subquery()
        query = select(column.first, column.payload).where(
            column.job == number, column.first >= func.coalesce(begin, 0)
        )
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(column.first).limit(_MAX_EVENT_ROWS)).all()
        return [EventBatch(row.first, unpack_events(bytes(row.payload))) for row in rows]

    def states(self, numbers: Collection[int]) -> dict[int, tuple[JobState, int]]:
        """The states of the jobs, and how many events are stored of each; those that are gone are missing."""
        query = select(jobs.c.number, jobs.c.state, jobs.c.events).where(jobs.c.number.in_(numbers))
        with self._database.read() as connection:
            return {row.number: (row.state, row.events) for row in connection.execute(query)}

    def leases(self, numbers: Collection[int]) -> dict[int, int]:
        """The leases of those of the jobs that run."""
        query = select(jobs.c.number, jobs.c.lease).where(jobs.c.number.in_(numbers), jobs.c.state == RUNNING)
        with self._database.read() as connection:
            return {row.number: row.lease for row in connection.execute(query)}

    def pending_work(self) -> PendingWork:
        """What there is to do now."""
        with self._database.read() as connection:
            now = self._database.now(connection).wall
            row = connection.execute(
                select(
                    exists().where(jobs.c.state == QUEUED).label("waiting"),
                    exists().where(is_abandoned(now, now + LEASE_SECONDS * 1000)).label("abandoned"),
                    exists().where(is_expired(now)).label("expired"),
                )
            ).one()
        return PendingWork(bool(row.waiting), bool(row.abandoned or row.expired))

    def count_waiting(self) -> int:
        """How many jobs wait, of all models."""
        with self._database.read() as connection:
            return connection.execute(select(func.count()).select_from(jobs).where(jobs.c.state == QUEUED)).scalar_one()

    def statistics(self, model: str) -> ModelStatistics:
        """How the model's jobs fare."""
        column = jobs.c
        finished = column.state == FINISHED, column.model == model
        latest = (
            select((column.ended_at - column.claimed_at).label("took"))
            .where(*finished)
            .order_by(column.ended_at.desc())
            .limit(_SAMPLED_JOBS)
            .subquery()
        )
        running = select(func.count()).select_from(jobs).where(column.state == RUNNING, column.model == model)
        waiting = select(column.priority, func.count().label("jobs")).where(column.state == QUEUED)
        with self._database.read() as connection:
            took = connection.execute(select(func.avg(latest.c.took))).scalar_one()
            by_priority = connection.execute(waiting.where(column.model == model).group_by(column.priority))
            return ModelStatistics(
                float(took or 0) / 1000,
                connection.execute(running).scalar_one(),
                {row.priority: row.jobs for row in by_priority},
            )
