"""Whose stored responses and jobs take up how much, so that one owner cannot take the place of all others."""

from sqlalchemy import Connection

# Each index has all columns of its query, so that no row is read: rows may hold large responses.
STATEMENTS = (
    "ALTER TABLE idempotent_requests ADD COLUMN owner TEXT",
    "ALTER TABLE idempotent_requests ADD COLUMN bytes BIGINT",
    "CREATE INDEX idempotent_requests_stored ON idempotent_requests (owner, ended_at, bytes, id) "
    "WHERE ended_at IS NOT NULL",
    "CREATE INDEX jobs_waiting ON jobs (owner, bytes) WHERE state = 'queued'",
    "CREATE INDEX jobs_stored ON jobs (owner, ended_at, bytes) WHERE ended_at IS NOT NULL",
)


def apply(connection: Connection) -> None:
    """Add columns and indexes. Responses that are stored already count as empty until they expire."""
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
