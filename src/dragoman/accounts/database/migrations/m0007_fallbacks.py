"""The models that a request may fall back to, with their prices, and who counted the tokens of a settled request."""

from sqlalchemy import Connection

STATEMENTS = (
    "ALTER TABLE holds ADD COLUMN fallbacks TEXT",
    "ALTER TABLE usage ADD COLUMN usage_source TEXT",
)


def apply(connection: Connection) -> None:
    """Add the columns. NULL: no fallbacks, and tokens counted by the engine of this server."""
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
