"""Upstreams that administrators have added or drained while servers ran."""

from sqlalchemy import Connection


def apply(connection: Connection) -> None:
    """Add the table. `settings` is JSON; NULL: the upstream is one of the settings file, and only its state is here."""
    connection.exec_driver_sql(
        """
        CREATE TABLE upstreams (
            name TEXT PRIMARY KEY,
            deployment TEXT NOT NULL,
            url TEXT NOT NULL,
            settings TEXT,
            is_draining BIGINT NOT NULL CHECK (is_draining IN (0, 1)),
            changed_at BIGINT NOT NULL
        )
        """
    )
