"""Read jobs from the database, on a thread of its own: reads never wait for writes."""

import time
from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Select, bindparam, exists, func, literal, select, tuple_

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.idempotency_keys import row_id
from dragoman.accounts.database.tables import idempotent_requests, job_events, job_requests, jobs
from dragoman.core.events import Event
from dragoman.core.idempotency import IdempotentRequest
from dragoman.core.jobs import JobState
from dragoman.jobs.storage.fair_queue import FINISHED, QUEUED, RUNNING
from dragoman.jobs.storage.statements import is_abandoned, is_expired, latest_lease_end
from dragoman.jobs.values.payloads import unpack_events

_SAMPLED_JOBS = 50
"""Latest finished jobs that the mean duration is computed from."""

_MAX_EVENT_ROWS = 50
"""Rows of events read by one call."""


class JobSnapshot(NamedTuple):
    """A job as it is stored now. The fields are columns."""

    number: int
    id: str
    owner: str
    model: str
    priority: int
    round: int
    state: JobState
    age: int | None
    """Milliseconds since it was claimed. None: it never was."""
    events: int
    error: bytes | None
    ended_at: int | None = None
    """Milliseconds since 1970."""


class ClockReading(NamedTuple):
    """The database's clock, read between two moments of this process."""

    wall: int
    """Milliseconds since 1970."""
    before: float
    after: float
    """In seconds of time.monotonic, as `before`."""


class PendingWork(NamedTuple):
    """The work that the queue has for a process."""

    clock: ClockReading
    has_waiting: bool
    """Whether jobs wait."""
    has_running: bool
    """Whether jobs run, in any process."""
    has_overdue: bool
    """Whether jobs were abandoned by their process or have waited for too long."""


# Built once: every process asks several times a second, and building the query takes longer than its answer.
_PENDING_WORK = select(
    exists().where(jobs.c.state == QUEUED),
    exists().where(jobs.c.state == RUNNING),
    exists().where(is_abandoned(bindparam("now", type_=BigInteger), bindparam("latest", type_=BigInteger))),
    exists().where(is_expired(bindparam("now", type_=BigInteger))),
)


class ModelStatistics(NamedTuple):
    """Statistics of a model's jobs."""

    mean_seconds: float
    """Mean time from claim to end of the latest finished jobs. 0: none has finished."""
    running: int
    waiting_by_priority: dict[int, int]
    """Number of waiting jobs by priority."""


class Backlog(NamedTuple):
    """Waiting jobs, and their size in bytes."""

    jobs: int = 0
    bytes: int = 0


class QueueDepth(NamedTuple):
    """How many jobs of one model wait and run."""

    waiting: int = 0
    running: int = 0
    oldest_seconds: float = 0.0
    """How long the oldest waiting job has waited. 0: no job waits."""

    def combined(self, other: "QueueDepth") -> "QueueDepth":
        """Return the depth of both together."""
        oldest_seconds = max(self.oldest_seconds, other.oldest_seconds)
        return QueueDepth(self.waiting + other.waiting, self.running + other.running, oldest_seconds)


class EventBatch(NamedTuple):
    """Consecutive events of a job."""

    first: int
    """Number of the first event."""
    events: list[Event]


class JobReader:
    """The jobs as any process reads them. Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, job_id: str) -> JobSnapshot | None:
        """Return the job with this id."""
        columns = (jobs.c.claimed_at if name == "age" else jobs.c[name] for name in JobSnapshot._fields)
        with self._database.read() as connection:
            row = connection.execute(select(*columns).where(jobs.c.id == job_id)).one_or_none()
            now = self._database.now(connection).wall
        if row is None:
            return None
        snapshot = JobSnapshot._make(row)
        return snapshot if snapshot.age is None else snapshot._replace(age=now - snapshot.age)

    def stored_request(self, number: int) -> bytes | None:
        """Return the job's packed StoredRequest."""
        with self._database.read() as connection:
            stored_request = connection.execute(
                select(job_requests.c.form).where(job_requests.c.job == number)
            ).scalar()
        return None if stored_request is None else bytes(stored_request)

    def job_of_request(self, request: IdempotentRequest) -> str | None:
        """Return the id of the job of an equal request with the same Idempotency-Key."""
        column = idempotent_requests.c
        query = select(column.job_id).where(column.id == row_id(request), column.fingerprint == request.fingerprint)
        with self._database.read() as connection:
            return connection.execute(query).scalar()

    def position(self, snapshot: JobSnapshot) -> int:
        """Return the place of a waiting job among those of its model, from 1 on, without regard to aging."""
        column = jobs.c
        waiting = select(func.count()).select_from(jobs).where(column.state == QUEUED, column.model == snapshot.model)
        own_key = tuple_(literal(snapshot.round), literal(snapshot.number))
        first = waiting.where(column.priority < snapshot.priority)
        same = waiting.where(column.priority == snapshot.priority, tuple_(column.round, column.number) < own_key)
        with self._database.read() as connection:
            return int(connection.execute(first).scalar_one() + connection.execute(same).scalar_one()) + 1

    def events(self, number: int, since: int) -> list[EventBatch]:
        """Return stored events from the number `since` on, up to the limit of one call."""
        column = job_events.c
        # The row that contains `since` may start before it.
        start = select(func.max(column.first)).where(column.job == number, column.first <= since).scalar_subquery()
        query = select(column.first, column.payload).where(
            column.job == number, column.first >= func.coalesce(start, 0)
        )
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(column.first).limit(_MAX_EVENT_ROWS)).all()
        return [EventBatch(row.first, unpack_events(bytes(row.payload))) for row in rows]

    def states(self, numbers: Collection[int]) -> dict[int, tuple[JobState, int]]:
        """Return the state and the number of stored events of each job. Removed jobs are left out."""
        query = select(jobs.c.number, jobs.c.state, jobs.c.events).where(jobs.c.number.in_(numbers))
        with self._database.read() as connection:
            return {row.number: (row.state, row.events) for row in connection.execute(query)}

    def leases(self, numbers: Collection[int]) -> dict[int, int]:
        """Return the lease tokens of those of the jobs that run."""
        query = select(jobs.c.number, jobs.c.lease).where(jobs.c.number.in_(numbers), jobs.c.state == RUNNING)
        with self._database.read() as connection:
            return {row.number: row.lease for row in connection.execute(query)}

    def pending_work(self) -> PendingWork:
        """Return whether there is work to do now."""
        with self._database.read() as connection:
            before = time.monotonic()
            now = self._database.now(connection).wall
            clock = ClockReading(now, before, time.monotonic())
            times = {"now": now, "latest": latest_lease_end(now)}
            waiting, running, abandoned, expired = connection.execute(_PENDING_WORK, times).one()
        return PendingWork(clock, bool(waiting), bool(running), bool(abandoned or expired))

    def backlog(self, owner: str | None = None) -> Backlog:
        """Return how many jobs of all models wait. `owner`: only this owner's. None: those of all."""
        query = select(func.count().label("jobs"), func.coalesce(func.sum(jobs.c.bytes), 0).label("bytes"))
        query = query.select_from(jobs).where(jobs.c.state == QUEUED)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        with self._database.read() as connection:
            row = connection.execute(query).one()
        return Backlog(row.jobs, int(row.bytes))

    def statistics(self, model: str) -> ModelStatistics:
        """Return the statistics of the model's jobs."""
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

    def depths(self) -> dict[str, QueueDepth]:
        """Return the depth of each model's queue. Models without waiting or running jobs are left out."""
        column = jobs.c
        # The oldest job has the lowest number, which the index finds; no index finds the lowest time.
        waiting = _counts_by_model(QUEUED, func.min(column.number).label("first")).subquery()
        oldest = select(waiting.c.model, waiting.c.jobs, column.submitted_at).join(
            jobs, column.number == waiting.c.first
        )
        with self._database.read() as connection:
            now = self._database.now(connection).wall
            running = {row.model: row.jobs for row in connection.execute(_counts_by_model(RUNNING))}
            depths = {
                row.model: QueueDepth(row.jobs, running.pop(row.model, 0), max(0, now - row.submitted_at) / 1000)
                for row in connection.execute(oldest)
            }
        return depths | {model: QueueDepth(running=count) for model, count in running.items()}


def _counts_by_model(state: ColumnElement[str], *more: ColumnElement[int]) -> Select[Any]:
    query = select(jobs.c.model, func.count().label("jobs"), *more)
    return query.where(jobs.c.state == state).group_by(jobs.c.model)
