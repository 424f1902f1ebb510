"""The models of queued requests for adapters, whose prices hold for adapters without one of their own."""

from sqlalchemy import Connection


def apply(connection: Connection) -> None:
    """Add the column."""
    connection.exec_driver_sql("ALTER TABLE job_requests ADD COLUMN base_model TEXT")
