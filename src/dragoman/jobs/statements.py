"""The statements of the queue's transactions."""

from typing import Any

from sqlalchemy import ColumnElement, Dialect, Select, and_, bindparam, delete, func, or_, select
from sqlalchemy import insert as insert_into
from sqlalchemy import update as update_of

from dragoman.accounts.idempotency import IdempotencyRow
from dragoman.accounts.statements import Statement, compiled, insert, one_of
from dragoman.accounts.tables import idempotent_requests, job_events, job_requests, jobs, processes
from dragoman.jobs.order import NONE, QUEUED, RUNNING, Order, at_most
from dragoman.jobs.rows import EndedRow, NewRow, OpenRow

Moment = int | ColumnElement[int]
"""Milliseconds since 1970, or the parameter that stands for them."""

_AT_ONCE = 100
"""Jobs that are taken over or failed in one transaction."""


class JobStatements:
    """Compiled for one kind of database.

    Jobs are locked before what the ledger locks, several of them in the order of their numbers or without waiting: no
    two transactions wait for each other.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.order = Order(dialect)
        self.known = _known(dialect)
        self.add = _adding(dialect)
        self.add_request = insert(dialect, job_requests, ("job", "requests", "form"))
        self.idempotent = _idempotent(dialect)
        self.alive = compiled(select(processes.c.id).where(processes.c.id == bindparam("given")), dialect, ("given",))
        self.add_idempotent = insert(dialect, idempotent_requests, IDEMPOTENT_COLUMNS)
        self.remove_idempotent = _removing_idempotent(dialect)
        self.claimable = _claimable(dialect)
        self.claim = _changing(dialect, *CLAIM_COLUMNS)
        self.open_jobs = _open_jobs(dialect)
        self.lease_out = _lease_out(dialect)
        self.expired = _expired(dialect)
        self.renew = _changing(dialect, "lease_until")
        self.add_events = insert(dialect, job_events, ("job", "first", "payload"))
        self.events_bytes = _events_bytes(dialect)
        self.remove_events = _removing_events(dialect)
        self.advance = _changing(dialect, "attempts", "fingerprint", "completion_tokens", "events", "bytes")
        self.mark_delivered = _changing(dialect, "delivered")
        self.put_back = _changing(dialect, "state", "attempts", "lease", "lease_until")
        self.end = _changing(dialect, *END_COLUMNS)
        self.retried = _retried(dialect)
        self.retry = _changing(dialect, *RETRY_COLUMNS)


IDEMPOTENT_COLUMNS = ("id", "fingerprint", "token", "process_id", "claimed_at", "job_id")
CLAIM_COLUMNS = ("state", "claimed_at", "attempts", "lease", "lease_until", "process_id")
END_COLUMNS = ("state", "ended_at", "lease", "lease_until", "completion_tokens", "error", "webhook_state", "webhook_at")

RETRY_COLUMNS = (
    "request_id",
    "round",
    "due",
    "state",
    "submitted_at",
    "expires_at",
    "claimed_at",
    "ended_at",
    "attempts",
    "process_id",
    "fingerprint",
    "completion_tokens",
    "events",
    "bytes",
    "delivered",
    "error",
    "webhook_state",
    "webhook_attempts",
    "webhook_at",
)


def _changing(dialect: Dialect, *columns: str) -> Statement:
    """Set columns of a job; the parameters are the columns, in the order of the table, then the job's number."""
    statement = update_of(jobs).where(jobs.c.number == bindparam("which"))
    return compiled(statement, dialect, (*columns, "which"), columns)


def _known(dialect: Dialect) -> Statement:
    query = select(jobs.c.request_id).where(one_of(dialect, jobs.c.request_id, "listed"))
    return compiled(query, dialect, ("listed",))


def _adding(dialect: Dialect) -> Statement:
    statement = insert_into(jobs).returning(jobs.c.number)
    return compiled(statement, dialect, NewRow._fields, NewRow._fields)


def _idempotent(dialect: Dialect) -> Statement:
    columns = (idempotent_requests.c[name] for name in IdempotencyRow._fields)
    query = select(*columns).where(idempotent_requests.c.id == bindparam("given"))
    return compiled(query.with_for_update(), dialect, ("given",))


def _removing_idempotent(dialect: Dialect) -> Statement:
    statement = delete(idempotent_requests).where(idempotent_requests.c.id == bindparam("given"))
    return compiled(statement, dialect, ("given",))


def _claimable(dialect: Dialect) -> Statement:
    """What a claim needs of a job that it has locked, its requests last."""
    names = ("id", "priority", "attempts", "events", "completion_tokens", "fingerprint")
    query = select(*(jobs.c[name] for name in names), job_requests.c.requests)
    query = query.join_from(jobs, job_requests, job_requests.c.job == jobs.c.number)
    return compiled(query.where(jobs.c.number == bindparam("given")), dialect, ("given",))


def _events_bytes(dialect: Dialect) -> Statement:
    size = func.sum(func.length(job_events.c.payload))
    return compiled(select(size).where(job_events.c.job == bindparam("given")), dialect, ("given",))


def _removing_events(dialect: Dialect) -> Statement:
    return compiled(delete(job_events).where(job_events.c.job == bindparam("given")), dialect, ("given",))


def _open() -> Select[Any]:
    return select(*(jobs.c[name] for name in OpenRow._fields))


def _open_jobs(dialect: Dialect) -> Statement:
    """Those of the jobs that have not ended."""
    query = _open().where(one_of(dialect, jobs.c.number, "listed"), jobs.c.state.in_((QUEUED, RUNNING)))
    return compiled(query.order_by(jobs.c.number).with_for_update(), dialect, ("listed",))


def _retried(dialect: Dialect) -> Statement:
    """The job with this id, locked."""
    query = select(*(jobs.c[name] for name in EndedRow._fields)).where(jobs.c.id == bindparam("given"))
    return compiled(query.with_for_update(), dialect, ("given",))


def is_abandoned(now: Moment, latest: Moment) -> ColumnElement[bool]:
    """Whether a job runs under a lease that is over, or later than any that is given now: the clock was set back."""
    until = jobs.c.lease_until
    return and_(jobs.c.state == RUNNING, or_(until < now, until > latest))


def is_expired(now: Moment) -> ColumnElement[bool]:
    """Whether a job's client has waited for too long and has been told nothing."""
    column = jobs.c
    late = column.expires_at.is_not(None), column.expires_at < now
    return and_(column.state == QUEUED, *late, column.events == NONE)


def _lease_out(dialect: Dialect) -> Statement:
    query = at_most(_AT_ONCE, _open().where(is_abandoned(bindparam("now"), bindparam("latest"))))
    return compiled(query.with_for_update(skip_locked=True), dialect, ("now", "latest"))


def _expired(dialect: Dialect) -> Statement:
    query = at_most(_AT_ONCE, _open().where(is_expired(bindparam("now"))))
    return compiled(query.with_for_update(skip_locked=True), dialect, ("now",))
