"""The audit log of changes to accounts, deposits, keys and prices."""

from sqlalchemy import Connection

from dragoman.accounts.database.migrations.m0001_accounts import IDENTITY

STATEMENTS = (
    """
    CREATE TABLE changes (
        id {identity},
        at BIGINT NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        subject TEXT NOT NULL,
        details TEXT NOT NULL
    )
    """,
)


def apply(connection: Connection) -> None:
    """Create the table."""
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement.format(identity=IDENTITY[connection.dialect.name]))
