"""Bodies of requests and their answers, which are kept if the settings say so."""

from sqlalchemy import Connection

from dragoman.accounts.database.migrations.m0002_idempotency import BYTES

STATEMENTS = (
    """
    CREATE TABLE request_bodies (
        request_id TEXT PRIMARY KEY,
        stored_at BIGINT NOT NULL,
        bytes BIGINT NOT NULL,
        is_cut BIGINT NOT NULL CHECK (is_cut IN (0, 1)),
        request {bytes} NOT NULL,
        answer {bytes} NOT NULL
    )
    """,
    "CREATE INDEX request_bodies_stored ON request_bodies (stored_at, bytes)",
)


def apply(connection: Connection) -> None:
    """Create the table."""
    kind = BYTES[connection.dialect.name]
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement.format(bytes=kind))
