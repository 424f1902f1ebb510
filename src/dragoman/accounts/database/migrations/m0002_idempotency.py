"""Requests with an Idempotency-Key, and their stored responses."""

from sqlalchemy import Connection

BYTES = {"sqlite": "BLOB", "postgresql": "BYTEA"}

STATEMENTS = (
    """
    CREATE TABLE idempotent_requests (
        id TEXT PRIMARY KEY,
        fingerprint TEXT NOT NULL,
        token BIGINT NOT NULL,
        process_id BIGINT NOT NULL,
        claimed_at BIGINT NOT NULL,
        ended_at BIGINT,
        status BIGINT,
        headers TEXT,
        body {bytes},
        CONSTRAINT ended_with_answer CHECK (status IS NULL OR ended_at IS NOT NULL AND body IS NOT NULL)
    )
    """,
    "CREATE INDEX idempotent_requests_ended ON idempotent_requests (ended_at) WHERE ended_at IS NOT NULL",
    "CREATE INDEX idempotent_requests_running ON idempotent_requests (process_id) WHERE ended_at IS NULL",
)


def apply(connection: Connection) -> None:
    """Create the table."""
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement.format(bytes=BYTES[connection.dialect.name]))
