"""Queued requests, their contents, and the events of their answers."""

from sqlalchemy import Connection

from dragoman.accounts.database.migrations.m0001_accounts import IDENTITY
from dragoman.accounts.database.migrations.m0002_idempotency import BYTES

NUMBER = {"sqlite": "INTEGER", "postgresql": "BIGINT"}
"""SQLite looks rows up by an INTEGER primary key without a separate index."""

# The indexes for waiting jobs contain only those, so their size is that of the queue, however many jobs have ended.
# The indexes over all jobs do not begin with the model, so that SQLite does not choose them instead.
STATEMENTS = (
    "ALTER TABLE idempotent_requests ADD COLUMN job_id TEXT",
    "CREATE INDEX idempotent_requests_job ON idempotent_requests (job_id) WHERE job_id IS NOT NULL",
    """
    CREATE TABLE jobs (
        number {identity},
        id TEXT NOT NULL UNIQUE,
        request_id TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        account TEXT,
        key_digest TEXT,
        dialect TEXT NOT NULL,
        model TEXT NOT NULL,
        priority BIGINT NOT NULL,
        round BIGINT NOT NULL,
        due BIGINT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'finished', 'failed', 'cancelled')),
        submitted_at BIGINT NOT NULL,
        expires_at BIGINT,
        claimed_at BIGINT,
        ended_at BIGINT,
        attempts BIGINT NOT NULL DEFAULT 0,
        lease BIGINT,
        lease_until BIGINT,
        process_id BIGINT,
        fingerprint TEXT,
        prompt_tokens BIGINT NOT NULL,
        most_completion_tokens BIGINT NOT NULL,
        completion_tokens BIGINT NOT NULL DEFAULT 0,
        events BIGINT NOT NULL DEFAULT 0,
        bytes BIGINT NOT NULL,
        delivered BIGINT NOT NULL DEFAULT 0,
        error {bytes},
        webhook TEXT,
        webhook_host TEXT,
        webhook_state TEXT,
        webhook_attempts BIGINT NOT NULL DEFAULT 0,
        webhook_at BIGINT,
        CONSTRAINT running_with_lease CHECK ((state = 'running') = (lease IS NOT NULL AND lease_until IS NOT NULL)),
        CONSTRAINT ended_once CHECK ((state IN ('queued', 'running')) = (ended_at IS NULL))
    )
    """,
    "CREATE INDEX jobs_due ON jobs (model, due, number) WHERE state = 'queued'",
    "CREATE INDEX jobs_place ON jobs (model, priority, round, number) WHERE state = 'queued'",
    "CREATE INDEX jobs_round ON jobs (priority, model, round)",
    "CREATE INDEX jobs_owner ON jobs (owner, model, priority, round)",
    "CREATE INDEX jobs_expiry ON jobs (expires_at) WHERE state = 'queued' AND expires_at IS NOT NULL",
    "CREATE INDEX jobs_lease ON jobs (lease_until) WHERE state = 'running'",
    "CREATE INDEX jobs_finished ON jobs (model, ended_at) WHERE state = 'finished'",
    "CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at IS NOT NULL",
    "CREATE INDEX jobs_webhook ON jobs (webhook_at) WHERE webhook_at IS NOT NULL",
    """
    CREATE TABLE job_requests (
        job {number} PRIMARY KEY,
        requests {bytes} NOT NULL,
        form {bytes} NOT NULL
    )
    """,
    """
    CREATE TABLE job_events (
        job BIGINT NOT NULL,
        first BIGINT NOT NULL,
        payload {bytes} NOT NULL,
        PRIMARY KEY (job, first)
    )
    """,
)


def apply(connection: Connection) -> None:
    """Create the tables."""
    kind = connection.dialect.name
    for statement in STATEMENTS:
        words = {"identity": IDENTITY[kind], "number": NUMBER[kind], "bytes": BYTES[kind]}
        connection.exec_driver_sql(statement.format(**words))
