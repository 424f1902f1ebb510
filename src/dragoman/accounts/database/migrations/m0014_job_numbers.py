"""Numbers of jobs that no other job ever has: SQLite gave that of a removed last job to the next one."""

from sqlalchemy import Connection

_COPY = "jobs_numbered"


def apply(connection: Connection) -> None:
    """Rebuild SQLite's table, since a primary key cannot be changed. PostgreSQL reuses no numbers."""
    if connection.dialect.name != "sqlite":
        return
    [table], indexes = _created(connection, "table"), _created(connection, "index")
    head, body = table.split("(", 1)
    body = body.replace("INTEGER PRIMARY KEY", "INTEGER PRIMARY KEY AUTOINCREMENT", 1)
    connection.exec_driver_sql(f"{head.replace('jobs', _COPY)}({body}")
    connection.exec_driver_sql(f"INSERT INTO {_COPY} SELECT * FROM jobs")
    connection.exec_driver_sql("DROP TABLE jobs")
    connection.exec_driver_sql(f"ALTER TABLE {_COPY} RENAME TO jobs")
    for index in indexes:
        connection.exec_driver_sql(index)


def _created(connection: Connection, kind: str) -> list[str]:
    """Return the statements that create the table or its indexes now."""
    query = "SELECT sql FROM sqlite_master WHERE tbl_name = 'jobs' AND type = ? AND sql IS NOT NULL"
    return [sql for (sql,) in connection.exec_driver_sql(query, (kind,))]
