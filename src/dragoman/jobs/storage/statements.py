"""The SQL statements of the queue's transactions."""

from typing import Any

from sqlalchemy import ColumnElement, Dialect, Select, and_, bindparam, delete, func, or_, select
from sqlalchemy import insert as insert_into
from sqlalchemy import update as update_of

from dragoman.accounts.database.idempotency_keys import IdempotencyRow
from dragoman.accounts.database.statements import Statement, compile_statement, compiled_once, in_list, insert
from dragoman.accounts.database.tables import idempotent_requests, job_events, job_requests, jobs, processes
from dragoman.jobs.storage.fair_queue import QUEUED, RUNNING, ZERO, FairQueue, at_most
from dragoman.jobs.values.options import CLOCK_TOLERANCE_SECONDS, LEASE_SECONDS
from dragoman.jobs.values.rows import EndedJobRow, MovableJobRow, NewJobRow, OpenJobRow

Timestamp = int | ColumnElement[int]
"""Milliseconds since 1970, or a bind parameter for them."""

_REAP_BATCH = 100
"""Jobs requeued or failed in one transaction."""


class JobStatements:
    """The statements, compiled for one kind of database.

    Transactions lock jobs before ledger rows, and several jobs in the order of their numbers or without waiting, so
    that no two transactions deadlock.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.fair_queue = FairQueue(dialect)
        self.known_request_ids = _known_request_ids(dialect)
        self.add = _insert_job(dialect)
        self.add_request = insert(dialect, job_requests, ("job", "requests", "form", "base_model"))
        self.idempotent = _idempotent(dialect)
        self.live_process = compile_statement(
            select(processes.c.id).where(processes.c.id == bindparam("given")), dialect, ("given",)
        )
        self.add_idempotent = insert(dialect, idempotent_requests, IDEMPOTENT_COLUMNS)
        self.remove_idempotent = _delete_idempotent(dialect)
        self.claimable = _claimable(dialect)
        self.claim = _update_job(dialect, *CLAIM_COLUMNS)
        self.open_jobs = _open_jobs(dialect)
        self.abandoned = _abandoned(dialect)
        self.expired = _expired(dialect)
        self.renew = _update_job(dialect, "lease_until")
        self.add_events = insert(dialect, job_events, ("job", "first", "payload"))
        self.first_events = _first_events(dialect)
        self.events_bytes = _events_bytes(dialect)
        self.remove_events = _delete_events(dialect)
        self.advance = _update_job(dialect, "attempts", "fingerprint", "completion_tokens", "events", "bytes")
        self.mark_delivered = _update_job(dialect, "delivered")
        self.requeue = _update_job(dialect, "state", "attempts", "lease", "lease_until")
        self.end = _update_job(dialect, *END_COLUMNS)
        self.retryable = _retryable(dialect)
        self.retry = _update_job(dialect, *RETRY_COLUMNS)
        self.movable = _movable(dialect)
        self.move = _update_job(dialect, "priority", "round", "due")


IDEMPOTENT_COLUMNS = ("id", "fingerprint", "token", "process_id", "claimed_at", "job_id")
CLAIM_COLUMNS = ("state", "claimed_at", "attempts", "lease", "lease_until", "process_id")

END_COLUMNS = (
    "round",
    "state",
    "ended_at",
    "lease",
    "lease_until",
    "completion_tokens",
    "error",
    "webhook_state",
    "webhook_at",
)

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


job_statements = compiled_once(JobStatements)


def _update_job(dialect: Dialect, *columns: str) -> Statement:
    """Set columns of a job. Parameters: the columns, in the order of the table, then the job's number."""
    statement = update_of(jobs).where(jobs.c.number == bindparam("which"))
    return compile_statement(statement, dialect, (*columns, "which"), columns)


def _known_request_ids(dialect: Dialect) -> Statement:
    query = select(jobs.c.request_id).where(in_list(dialect, jobs.c.request_id, "listed"))
    return compile_statement(query, dialect, ("listed",))


def _insert_job(dialect: Dialect) -> Statement:
    statement = insert_into(jobs).returning(jobs.c.number)
    return compile_statement(statement, dialect, NewJobRow._fields, NewJobRow._fields)


def _idempotent(dialect: Dialect) -> Statement:
    columns = (idempotent_requests.c[name] for name in IdempotencyRow._fields)
    query = select(*columns).where(idempotent_requests.c.id == bindparam("given"))
    return compile_statement(query.with_for_update(), dialect, ("given",))


def _delete_idempotent(dialect: Dialect) -> Statement:
    statement = delete(idempotent_requests).where(idempotent_requests.c.id == bindparam("given"))
    return compile_statement(statement, dialect, ("given",))


def _claimable(dialect: Dialect) -> Statement:
    """Select the columns that a claim needs of a locked job, the requests last."""
    names = ("id", "owner", "priority", "attempts", "submitted_at", "events", "completion_tokens", "fingerprint")
    query = select(*(jobs.c[name] for name in names), job_requests.c.requests)
    query = query.join_from(jobs, job_requests, job_requests.c.job == jobs.c.number)
    return compile_statement(query.where(jobs.c.number == bindparam("given")), dialect, ("given",))


def _first_events(dialect: Dialect) -> Statement:
    query = select(job_events.c.payload).where(job_events.c.job == bindparam("given"), job_events.c.first == ZERO)
    return compile_statement(query, dialect, ("given",))


def _events_bytes(dialect: Dialect) -> Statement:
    size = func.sum(func.length(job_events.c.payload))
    return compile_statement(select(size).where(job_events.c.job == bindparam("given")), dialect, ("given",))


def _delete_events(dialect: Dialect) -> Statement:
    return compile_statement(delete(job_events).where(job_events.c.job == bindparam("given")), dialect, ("given",))


def _select_open_jobs() -> Select[Any]:
    return select(*(jobs.c[name] for name in OpenJobRow._fields))


def _open_jobs(dialect: Dialect) -> Statement:
    """Lock those of the listed jobs that have not ended."""
    query = _select_open_jobs().where(in_list(dialect, jobs.c.number, "listed"), jobs.c.state.in_((QUEUED, RUNNING)))
    return compile_statement(query.order_by(jobs.c.number).with_for_update(), dialect, ("listed",))


def _retryable(dialect: Dialect) -> Statement:
    """Lock the job with this id."""
    columns = (job_requests.c[name] if name == "base_model" else jobs.c[name] for name in EndedJobRow._fields)
    query = select(*columns).join_from(jobs, job_requests, job_requests.c.job == jobs.c.number)
    return compile_statement(query.where(jobs.c.id == bindparam("given")).with_for_update(), dialect, ("given",))


def _movable(dialect: Dialect) -> Statement:
    """Lock the job with this id."""
    columns = (jobs.c[name] for name in MovableJobRow._fields)
    query = select(*columns).where(jobs.c.id == bindparam("given"))
    return compile_statement(query.with_for_update(), dialect, ("given",))


def latest_lease_end(now: int) -> int:
    """Return the latest time to which a lease can be valid that was taken by now, if the clock was not set back."""
    return now + (LEASE_SECONDS + CLOCK_TOLERANCE_SECONDS) * 1000


def is_abandoned(now: Timestamp, latest: Timestamp) -> ColumnElement[bool]:
    """Whether a job's lease has expired, or ends later than any new lease because the clock was set back."""
    until = jobs.c.lease_until
    return and_(jobs.c.state == RUNNING, or_(until < now, until > latest))


def is_expired(now: Timestamp) -> ColumnElement[bool]:
    """Whether a job's client has waited for too long and no event is stored."""
    column = jobs.c
    late = column.expires_at.is_not(None), column.expires_at < now
    return and_(column.state == QUEUED, *late, column.events == ZERO)


def _abandoned(dialect: Dialect) -> Statement:
    query = at_most(_REAP_BATCH, _select_open_jobs().where(is_abandoned(bindparam("now"), bindparam("latest"))))
    return compile_statement(query.with_for_update(skip_locked=True), dialect, ("now", "latest"))


def _expired(dialect: Dialect) -> Statement:
    query = at_most(_REAP_BATCH, _select_open_jobs().where(is_expired(bindparam("now"))))
    return compile_statement(query.with_for_update(skip_locked=True), dialect, ("now",))
