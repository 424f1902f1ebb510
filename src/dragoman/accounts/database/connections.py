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
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from sqlalchemy import Connection, Dialect, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from dragoman.accounts.database.statements import Statement
from dragoman.core.money import InvalidAmount

_CACHE_KIBIBYTES = 16_384
"""SQLite's page cache for each connection; enough for the upper levels of every index."""

_POSTGRESQL_CONNECT_ARGS = {
    "connect_timeout": 5,
    # Both sides detect that the other machine is gone, so that it does not keep accounts locked.
    "options": "-c idle_in_transaction_session_timeout=10s "
    "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}

_WAL_RETRY_SECONDS = 0.01

_POSTGRESQL_CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"


Value = TypeVar("Value")

Deferred = Callable[[], Value]
"""Fetches the result of an earlier statement."""


class InvalidDatabaseUrl(ValueError):
    """Not a URL of a database that dragoman can use."""


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


class Database:
    """Connections to one database, usable from any thread. It connects at the first use."""

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
        self.engine = _engine(url, busy_seconds)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        if not self.is_sqlite:
            from dragoman.accounts.database.deadlines import connect_with_deadline  # psycopg takes long to import.

            connect_with_deadline(self.engine, answer_seconds)

    @property
    def dialect(self) -> Dialect:
        """The SQL dialect to compile statements for."""
        return self.engine.dialect

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a read-only transaction."""
        with self.engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Open a read-only transaction whose queries all see the state of the database at the first query."""
        with self.engine.connect() as connection:
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
        with self.engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            self._active.connection = connection
            try:
                with connection.begin():
                    yield connection
            finally:
                del self._active.connection

    def now(self, connection: Connection) -> Instant:
        """Return the time that all timestamps in the database come from."""
        if self.is_sqlite:
            return self._clock.now()
        return _instant(connection.exec_driver_sql(_POSTGRESQL_CLOCK).scalar_one())

    def session(self) -> "Session":
        """Open a connection of the caller's own, for one thread. Raises `transient_errors`."""
        if self.is_sqlite:
            return _SqliteSession(self.engine, self._clock)
        return _PostgresqlSession(self.engine, self.busy_seconds)

    def sync(self) -> None:
        """Wait until the sessions' commits are on the disk. Raises OSError.

        PostgreSQL's commits have waited for the disk already: holds must outlive a crash of the database server, since
        the processes that made them live on. SQLite's commits have only written the log: a sync may take milliseconds,
        and other transactions need not wait for it.
        """
        if not self.is_sqlite:
            return
        try:
            log = os.open(f"{self.engine.url.database}-wal", os.O_RDONLY)
        except FileNotFoundError:
            return  # The last connection was closed: everything is in the database file, synced.
        try:
            os.fsync(log)
        finally:
            os.close(log)

    @property
    def transient_errors(self) -> tuple[type[Exception], ...]:
        """Errors of a database that cannot be reached or used at present; a retry may succeed."""
        driver = self.dialect.loaded_dbapi
        return driver.OperationalError, driver.InterfaceError, OperationalError, InterfaceError

    @property
    def data_errors(self) -> tuple[type[Exception], ...]:
        """Errors of values that the tables do not accept."""
        driver = self.dialect.loaded_dbapi
        return driver.IntegrityError, driver.DataError, OverflowError, UnicodeEncodeError, InvalidAmount

    def close(self) -> None:
        """Close all connections that are not in use."""
        self.engine.dispose()


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

    def begin(self) -> None:
        self._cursor.execute("BEGIN IMMEDIATE")

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


def _engine(url: str, busy_seconds: float) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InvalidDatabaseUrl("Not a database URL; write sqlite:///… or postgresql://…") from None
    kind = parsed.get_backend_name()
    if kind == "sqlite" and parsed.database:
        return _sqlite_engine(parsed, busy_seconds)
    if kind in ("postgresql", "postgres"):
        return create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            paramstyle="format",
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args=_POSTGRESQL_CONNECT_ARGS,
        )
    raise InvalidDatabaseUrl(f"Not a database dragoman can use: {kind}; write sqlite:///… or postgresql://…")


def _sqlite_engine(url: URL, busy_seconds: float) -> Engine:
    # Errors are logged; the values to be written, clients' answers among them, are not.
    engine = create_engine(url.set(drivername="sqlite"), hide_parameters=True, connect_args={"timeout": busy_seconds})
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # The driver must not begin transactions by itself.
    _enable_wal(connection)
    for pragma in (
        "synchronous = FULL",
        "foreign_keys = ON",
        f"cache_size = -{_CACHE_KIBIBYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _enable_wal(connection: sqlite3.Connection) -> None:
    # SQLite changes a new file to WAL under a lock that it does not wait for, whatever the busy timeout.
    (milliseconds,) = connection.execute("PRAGMA busy_timeout").fetchone()
    deadline = time.monotonic() + milliseconds / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_WAL_RETRY_SECONDS)


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that began with a read cannot write after another one has written.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
