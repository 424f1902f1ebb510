"""One database, SQLite or PostgreSQL: connections, transactions, and the time.

Administration uses SQLAlchemy's connections (`read`, `write`). The ledger and the queue use a `Session`: SQLAlchemy's
statements, compiled once (statements.py), on the driver's cursor. Measured, SQLAlchemy's execution would take as long
as SQLite itself.
"""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import quote

import msgspec
from sqlalchemy import Connection, Dialect, Engine

from dragoman.accounts.database.engines import InvalidDatabaseUrl as InvalidDatabaseUrl
from dragoman.accounts.database.engines import identify_files, keep_unclosed, open_engine
from dragoman.accounts.database.failures import DatabaseUnavailable as DatabaseUnavailable
from dragoman.accounts.database.failures import OutageLog, find_outage
from dragoman.accounts.database.statements import Statement
from dragoman.core.money import InvalidAmount

_CHECK_SECONDS = 1.0

_POSTGRESQL_CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"


Value = TypeVar("Value")

Deferred = Callable[[], Value]
"""Fetches the result of an earlier statement."""


class Instant(NamedTuple):
    """The current time."""

    wall: int
    """Milliseconds since 1970 (UTC)."""
    second: int
    """Seconds since an arbitrary moment that is the same for all processes using the database."""


class Clock(Protocol):
    """The time of processes that use SQLite; PostgreSQL has its own."""

    def now(self) -> Instant: ...


class SystemClock:
    """The machine's clocks. The monotonic clock counts from the machine's start and is the same for all its processes.
    It cannot be set, so limits per minute do not depend on changes of the wall clock."""

    def now(self) -> Instant:
        return Instant(time.time_ns() // 1_000_000, int(time.monotonic()))


class SqliteConnection(sqlite3.Connection):
    """A connection that notices when its database was deleted or replaced while it is open.

    The system keeps deleted files for those who have them open: without a check, commits would succeed and be lost.
    """

    def __init__(self, path: str, busy_seconds: float) -> None:
        """Open an existing file; a server whose database was deleted must not go on with an empty one."""
        file = os.path.realpath(path)  # SQLite puts the log beside the file that a link points to.
        self._paths = path, f"{file}-wal"
        before = identify_files(*self._paths)
        # Until the connection has read, another process may still delete the log.
        self._files: tuple[object, ...] = (before[0], None, None)
        self._next_check = 0.0
        super().__init__(f"file:{quote(file)}?mode=rw", uri=True, timeout=busy_seconds, check_same_thread=False)

    @property
    def is_current(self) -> bool:
        """Whether database and log are still the files at their paths."""
        found = identify_files(*self._paths)
        # SQLite writes the first page of a new file and creates the log later.
        if found != self._files and any(
            before not in (None, now) for before, now in zip(self._files, found, strict=True)
        ):
            return False
        self._files = found
        return True

    def check_files(self) -> None:
        """Raise DatabaseUnavailable unless the files are current."""
        if not self.is_current:
            raise DatabaseUnavailable(f"{self._paths[0]} or its -wal file was deleted or replaced")

    def check_often(self) -> None:
        """Check the database, and its log once in a second: what a deleted log contains is saved by `close`."""
        now = time.monotonic()
        try:
            file = os.stat(self._paths[0])  # noqa: PTH116 - a Path would take twice as long, in each transaction
            is_same = (file.st_dev, file.st_ino) == self._files[0]
        except OSError:
            is_same = False
        if not is_same or now >= self._next_check:
            self._next_check = now + _CHECK_SECONDS
            self.check_files()

    def close(self) -> None:
        """Close the connection. It is kept instead if its files are gone, see engines.keep_unclosed."""
        with contextlib.suppress(sqlite3.Error):  # SQLite would keep its locks as long as one of its cursors exists.
            self.rollback()
        if self.is_current:
            super().close()
            return
        keep_unclosed(self, Path(self._paths[1]), self._files[2])


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
        return _instant(connection.exec_driver_sql(_POSTGRESQL_CLOCK).scalar_one())

    def session(self) -> "Session":
        """Open a connection of the caller's own, for one thread. Raises DatabaseUnavailable.

        What its methods raise is translated by the caller, see `find_outage`.
        """
        with self._translated():
            if self.is_sqlite:
                return _SqliteSession(self.engine, self._clock)
            return _PostgresqlSession(self.engine, self.busy_seconds)

    @property
    def path(self) -> str:
        """SQLite's file."""
        return self.engine.url.database or ""

    def sync(self) -> None:
        """Wait until the sessions' commits are on the disk. Raises DatabaseUnavailable.

        PostgreSQL's commits have waited for the disk already: holds must outlive a crash of the database server, since
        the processes that made them live on. SQLite's commits have only written the log: a sync may take milliseconds,
        and other transactions need not wait for it.
        """
        if not self.is_sqlite:
            return
        try:
            log = os.open(f"{os.path.realpath(self.path)}-wal", os.O_RDONLY)
        except FileNotFoundError:
            return  # The last connection was closed: everything is in the database file, synced.
        except OSError as error:
            raise DatabaseUnavailable(error.strerror) from error
        try:
            os.fsync(log)
        except OSError as error:
            raise DatabaseUnavailable(error.strerror) from error
        finally:
            os.close(log)

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


class Session:
    """One connection that runs one transaction after another."""

    def __init__(self, engine: Engine) -> None:
        pooled = engine.raw_connection()
        connection: Any = pooled.driver_connection
        pooled.detach()
        self._connection = connection
        self._cursor = self._new_cursor()

    def _new_cursor(self) -> Any:
        return self._connection.cursor()

    @property
    def is_current(self) -> bool:
        """Whether the connection is still one to the database at its URL, as far as can be found out quickly."""
        return True

    def begin(self) -> None:
        """Begin a transaction."""
        self._cursor.execute("BEGIN")

    def now(self) -> Instant:
        """Return the time that all timestamps in the database come from, read again at each call."""
        return self.deferred_now()()

    def deferred_now(self) -> Deferred[Instant]:
        """Read the time, to be fetched later; within a `pipeline`, after its end."""
        raise NotImplementedError

    def commit(self) -> None:
        """Commit. The writes survive the process; only Database.sync makes sure that they survive a loss of power."""
        self._cursor.execute("COMMIT")

    def rollback(self) -> None:
        """Roll the transaction back."""
        self._cursor.execute("ROLLBACK")

    def rows(self, statement: Statement, *parameters: object) -> list[Any]:
        """Run a query and return its rows as tuples."""
        rows: list[Any] = self._cursor.execute(statement.sql, parameters).fetchall()
        return rows

    def deferred_rows(self, statement: Statement, *parameters: object) -> Deferred[list[Any]]:
        """Run a query whose rows are fetched later; within a `pipeline`, after its end."""
        rows = self.rows(statement, *parameters)
        return lambda: rows

    def write(self, statement: Statement, *parameters: object) -> None:
        """Execute a statement that returns no rows."""
        self._cursor.execute(statement.sql, parameters)

    def write_many(self, statement: Statement, rows: Sequence[Sequence[object]]) -> None:
        """Execute a statement for each of the rows, if any."""
        if rows:
            self._cursor.executemany(statement.sql, rows)

    def add(self, statement: Statement, rows: Sequence[Sequence[object]]) -> None:
        """Insert the rows, if any, by a statement of `insert_many`."""
        self.write_many(statement, rows)

    def pipeline(self) -> contextlib.AbstractContextManager[object]:
        """Open a block of statements that do not wait for each other's results: one round trip for all."""
        return contextlib.nullcontext()

    def list_parameter(self, values: Iterable[object]) -> object:
        """Encode a list as one parameter, see statements.in_list."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection and roll back what was not committed."""
        self._connection.close()


class _SqliteSession(Session):
    def __init__(self, engine: Engine, clock: Clock) -> None:
        super().__init__(engine)
        self._clock = clock
        self._cursor.execute("PRAGMA synchronous = NORMAL")

    @property
    def is_current(self) -> bool:
        current: bool = self._connection.is_current
        return current

    def begin(self) -> None:
        self._cursor.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        super().commit()
        self._connection.check_often()

    def rollback(self) -> None:
        if self._connection.in_transaction:  # After some errors SQLite has already rolled back.
            super().rollback()

    def deferred_now(self) -> Deferred[Instant]:
        return self._clock.now

    def list_parameter(self, values: Iterable[object]) -> object:
        return msgspec.json.encode(list(values)).decode()


class _PostgresqlSession(Session):
    def __init__(self, engine: Engine, busy_seconds: float) -> None:
        super().__init__(engine)
        self._connection.answer_seconds = 3 * busy_seconds
        self._connection.autocommit = True  # BEGIN, COMMIT and ROLLBACK are executed explicitly.
        self._cursor.execute(f"SET statement_timeout = '{busy_seconds}s'")
        # Every plan is an index lookup, whatever the parameters; planning each time would take longer than execution.
        self._cursor.execute("SET plan_cache_mode = force_generic_plan")

    def _new_cursor(self) -> Any:
        return self._connection.cursor(binary=True)

    def deferred_now(self) -> Deferred[Instant]:
        cursor = self._new_cursor()
        cursor.execute(_POSTGRESQL_CLOCK)
        return lambda: _instant(cursor.fetchone()[0])

    def deferred_rows(self, statement: Statement, *parameters: object) -> Deferred[list[Any]]:
        # A cursor of its own: on a shared one, the pipeline's next statement would discard these rows.
        cursor = self._new_cursor()
        cursor.execute(statement.sql, parameters)
        fetch: Deferred[list[Any]] = cursor.fetchall
        return fetch

    def add(self, statement: Statement, rows: Sequence[Sequence[object]]) -> None:
        if rows:
            self.write(statement, msgspec.json.encode(rows).decode())

    def pipeline(self) -> contextlib.AbstractContextManager[object]:
        pipeline: contextlib.AbstractContextManager[object] = self._connection.pipeline()
        return pipeline

    def list_parameter(self, values: Iterable[object]) -> object:
        return list(values)


def _instant(milliseconds: int) -> Instant:
    return Instant(milliseconds, milliseconds // 1000)


def _check_files(connection: Any) -> None:
    if isinstance(connection, SqliteConnection):
        connection.check_files()
