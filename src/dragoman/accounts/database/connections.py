"""One database, SQLite or PostgreSQL: connections, transactions, and the time.

Administration uses SQLAlchemy's connections (`read`, `write`). The ledger and the queue use a `Session`: SQLAlchemy's
statements, compiled once (statements.py), on the driver's cursor. Measured, SQLAlchemy's execution would take as long
as SQLite itself.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Dialect

from dragoman.accounts.database.engines import InvalidDatabaseUrl as InvalidDatabaseUrl
from dragoman.accounts.database.engines import open_engine
from dragoman.accounts.database.failures import DatabaseUnavailable as DatabaseUnavailable
from dragoman.accounts.database.failures import OutageLog, find_outage
from dragoman.accounts.database.sessions import (
    POSTGRESQL_CLOCK,
    Clock,
    Instant,
    PostgresqlSession,
    Session,
    SqliteConnection,
    SqliteSession,
    SystemClock,
    instant,
)
from dragoman.core.money import InvalidAmount


class Database:
    """Connections to one database, usable from any thread. It connects at the first use.

    Transactions raise DatabaseUnavailable if the database cannot be used, whatever the reason. Its connections are
    then discarded, and the next transaction connects again.
    """

    def __init__(
        self, url: str, clock: Clock | None = None, *, busy_seconds: float = 5, answer_seconds: float | None = None
    ) -> None:
        """`url` is `sqlite:///relative/path`, `sqlite:////absolute/path` or `postgresql://user@host/name`.

        A transaction waits `busy_seconds` for others before it fails. A PostgreSQL server that hangs is waited for
        `answer_seconds`, or without a limit; in a `session`, for three times `busy_seconds`. Raises InvalidDatabaseUrl.
        """
        self.url = url
        """With its password, if it has one."""
        self.busy_seconds = busy_seconds
        self._clock = clock or SystemClock()
        self._active = threading.local()
        self.engine = open_engine(url, busy_seconds, SqliteConnection, answer_seconds=answer_seconds)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self.path = self.engine.url.database or ""
        """SQLite's file."""
        self.outage = OutageLog()
        """The log of outages, which all parts of the process share."""

    @property
    def dialect(self) -> Dialect:
        """The SQL dialect to compile statements for."""
        return self.engine.dialect

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a read-only transaction."""
        with self._translated(), self.engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Open a read-only transaction whose queries all see the state of the database at the first query."""
        with self._translated(), self.engine.connect() as connection:
            # SQLite's transactions are like this anyway.
            yield connection if self.is_sqlite else connection.execution_options(isolation_level="REPEATABLE READ")

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that is committed at the end of the block unless the block raises.

        Once committed it survives a loss of power. Nested blocks of the same thread are part of it.
        """
        outer = getattr(self._active, "connection", None)
        if outer is not None:
            yield outer
            return
        with self._translated(), self.engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            self._active.connection = connection
            try:
                with connection.begin():
                    yield connection
            finally:
                del self._active.connection
            if self.is_sqlite:
                _check_files(connection.connection.dbapi_connection)

    def now(self, connection: Connection) -> Instant:
        """Return the time that all timestamps in the database come from."""
        if self.is_sqlite:
            return self._clock.now()
        return instant(connection.exec_driver_sql(POSTGRESQL_CLOCK).scalar_one())

    def session(self, *, lock_seconds: float | None = None) -> Session:
        """Open a connection of the caller's own, for one thread. Raises DatabaseUnavailable.

        On PostgreSQL it waits for others' locks for `lock_seconds`; None: for `busy_seconds`, as SQLite's does. What
        its methods raise is translated by the caller, see `find_outage`.
        """
        with self._translated():
            if self.is_sqlite:
                return SqliteSession(self.engine, self._clock)
            return PostgresqlSession(self.engine, self.busy_seconds, lock_seconds)

    @property
    def driver_error(self) -> type[Exception]:
        """The base of the driver's errors."""
        error: type[Exception] = self.dialect.loaded_dbapi.Error
        return error

    @property
    def data_errors(self) -> tuple[type[Exception], ...]:
        """Errors of values that the tables do not accept."""
        driver = self.dialect.loaded_dbapi
        return driver.IntegrityError, driver.DataError, OverflowError, UnicodeEncodeError, InvalidAmount

    def close(self) -> None:
        """Close all connections that are not in use."""
        self.engine.dispose()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if (outage := find_outage(error)) is not None:
                raise outage from error
            raise


def _check_files(connection: Any) -> None:
    if isinstance(connection, SqliteConnection):
        connection.check_files()
