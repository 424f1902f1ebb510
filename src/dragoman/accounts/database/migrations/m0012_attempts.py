"""The attempts at replicas that a request took."""

from sqlalchemy import Connection


def apply(connection: Connection) -> None:
    """Add the column, which is NULL for requests that one engine answered."""
    connection.exec_driver_sql("ALTER TABLE usage ADD COLUMN attempts TEXT")
