"""Stored responses of the Responses API."""

from sqlalchemy import Connection

from dragoman.accounts.database.migrations.m0002_idempotency import BYTES

STATEMENTS = (
    """
    CREATE TABLE responses (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        previous_id TEXT,
        stored_at BIGINT NOT NULL,
        deleted BIGINT NOT NULL DEFAULT 0,
        bytes BIGINT NOT NULL,
        input {bytes} NOT NULL,
        response {bytes} NOT NULL
    )
    """,
    "CREATE INDEX responses_stored ON responses (stored_at)",
    "CREATE INDEX responses_owner ON responses (owner, stored_at)",
)


def apply(connection: Connection) -> None:
    """Create the table."""
    kind = BYTES[connection.dialect.name]
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement.format(bytes=kind))
