"""List jobs for administrators: those of all owners."""

from typing import Any

import msgspec
from sqlalchemy import select

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import holds, jobs, keys, usage
from dragoman.core.context import account_owner
from dragoman.core.egress.urls import origin
from dragoman.core.errors import DragomanError, JobNotFound
from dragoman.core.jobs import JobState
from dragoman.jobs.storage.fair_queue import QUEUED, RUNNING
from dragoman.jobs.values.payloads import unpack_error
from dragoman.jobs.webhooks.store import WebhookState


class JobFilter(msgspec.Struct, frozen=True):
    """Which jobs to list. None: any."""

    state: JobState | None = None
    model: str | None = None
    account_id: int | None = None


class JobEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A job as administrators see it. Times are in milliseconds since 1970, amounts in nano-units."""

    number: int
    """Ascending by the first submission."""
    id: str
    request_id: str
    """Its id in the ledger."""
    owner: str
    dialect: str
    model: str
    priority: int
    state: JobState
    submitted_at: int
    claimed_at: int | None
    """Start of its last attempt."""
    ended_at: int | None
    attempts: int
    """Attempts since its last progress."""
    process_id: int | None
    """The worker that ran it last, by its number in the database. None: none has."""
    lease_until: int | None
    """Until when the worker has the right to run it, unless it renews it. None: it does not run."""
    prompt_tokens: int
    completion_tokens: int
    error: bytes | None
    webhook: str | None
    webhook_state: WebhookState | None
    webhook_attempts: int
    webhook_at: int | None
    hold: int | None = None
    """What it may still cost. None: it has ended."""
    charge: int | None = None
    """What it has cost. None: it has not ended."""

    @property
    def failure(self) -> DragomanError | None:
        """The error of a failed job."""
        return None if self.error is None else unpack_error(self.error)

    @property
    def webhook_origin(self) -> str | None:
        """The receiver of its webhook, without the parts of the URL that may be secret."""
        return None if self.webhook is None else origin(self.webhook)


_LEDGER_COLUMNS = {"hold": holds.c.amount, "charge": usage.c.charge}


def list_jobs(
    database: Database, job_filter: JobFilter, *, before: int | None = None, limit: int = 100
) -> list[JobEntry]:
    """Return up to `limit` jobs, newest first. `before`: only jobs with a lower number, to continue a listing."""
    column = jobs.c
    query = _entries().order_by(column.number.desc()).limit(limit)
    if job_filter.state is not None:
        query = query.where(column.state == job_filter.state)
    if job_filter.model is not None:
        query = query.where(column.model == job_filter.model)
    if job_filter.account_id is not None:
        query = query.where(column.owner == account_owner(job_filter.account_id))
    if before is not None:
        query = query.where(column.number < before)
    with database.read() as connection:
        return [JobEntry(**row._mapping) for row in connection.execute(query)]


def get_job(database: Database, job_id: str) -> JobEntry:
    """Return the job with this id. Raises JobNotFound."""
    with database.read() as connection:
        row = connection.execute(_entries().where(jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise JobNotFound(job_id)
    return JobEntry(**row._mapping)


def open_jobs_of_key(database: Database, key_id: int) -> list[int]:
    """Return the numbers of the key's jobs that have not ended: first those that wait."""
    digest = select(keys.c.digest).where(keys.c.id == key_id).scalar_subquery()
    query = select(jobs.c.number).where(jobs.c.key_digest == digest, jobs.c.state.in_((QUEUED, RUNNING)))
    with database.read() as connection:
        return list(connection.execute(query.order_by(jobs.c.state, jobs.c.number)).scalars())


def _entries() -> Any:
    columns = [
        _LEDGER_COLUMNS[name].label(name) if name in _LEDGER_COLUMNS else jobs.c[name]
        for name in JobEntry.__struct_fields__
    ]
    joined = jobs.outerjoin(holds, holds.c.request_id == jobs.c.request_id)
    return select(*columns).select_from(joined.outerjoin(usage, usage.c.request_id == jobs.c.request_id))
