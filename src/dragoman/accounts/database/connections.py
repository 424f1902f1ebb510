"""One database, SQLite or PostgreSQL: connections, transactions, and the time.

People's changes go through SQLAlchemy's own connections (`read`, `write`). What every request pays for goes through a
`Session`: the same statements, compiled once (statements.py), on the driver's cursor; measured, SQLAlchemy's execution
would cost as much again as SQLite itself.
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
from dragoman.accounts.money import InvalidAmount

_CACHE_KIBIBYTES = 16_384
"""Pages that a SQLite connection keeps in memory; the upper levels of every index are among them."""

_POSTGRESQL_CONNECT_ARGS = {
    "connect_timeout": 5,
    # A machine that vanished is noticed by either side, and does not keep accounts locked.
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
"""Fetches what was asked."""


class InvalidDatabaseUrl(ValueError):
    """Not a URL of a database that dragoman can use."""


class Instant(NamedTuple):
    """Now."""

    wall: int
    """Milliseconds since 1970 (UTC)."""
    second: int
    """Seconds for measuring, from an unknown beginning that all processes using the database share."""


class Clock(Protocol):
    """Where SQLite's processes have the time from; PostgreSQL has its own."""

    def now(self) -> Instant: ...


class SystemClock:
    """The machine's clocks. The monotonic one counts since the machine was started, the same for all processes on it:
    nobody can set it, so nobody's limit per minute depends on what the wall clock is set to."""

    def now(self) -> Instant:
        return Instant(time.time_ns() // 1_000_000, int(time.monotonic()))


class Database:
    """Connections to one database. Usable from any thread; connecting is left to the first use."""

    def __init__(self, url: str, clock: Clock | None = None, *, busy_seconds: float = 5) -> None:
        """`url` is `sqlite:///relative/path`, `sqlite:////absolute/path` or `postgresql://user@host/name`.

        A transaction waits `busy_seconds` for others before it fails. Raises InvalidDatabaseUrl.
        """
        self.url = url
        """With its password, if it has one."""
        self.busy_seconds = busy_seconds
        self._clock = clock or SystemClock()
        self._active = threading.local()
        self.engine = _engine(url, busy_seconds)
        self.is_sqlite = self.engine.dialect.name == "sqlite"

    @property
    def dialect(self) -> Dialect:
        """What statements are compiled for."""
        return self.engine.dialect

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that changes nothing."""
        with self.engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A transaction whose every query sees the database as it was at the first one."""
        with self.engine.connect() as connection:
            # SQLite's transactions are like this anyway.
            yield connection if self.is_sqlite else connection.execution_options(isolation_level="REPEATABLE READ")

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction, committed at the end of the block unless that raises; it then survives a loss of power.

        Within the block, further ones of the same thread are part of it.
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
        """The time by which everything in the database is dated."""
        if self.is_sqlite:
            return self._clock.now()
        return _instant(connection.exec_driver_sql(_POSTGRESQL_CLOCK).scalar_one())

    def session(self) -> "Session":
        """A connection of the caller's own, for one thread. Raises what `failures` names."""
        if self.is_sqlite:
            return _SqliteSession(self.engine, self._clock)
        return _PostgresqlSession(self.engine, self.busy_seconds)

    def sync(self) -> None:
        """Wait until what the sessions committed is on the disk. Raises OSError.

        PostgreSQL's commits have waited for that already: holds too must outlive a crash of the server, since the
        processes that took them live on. SQLite's have only written it to the log: the disk may take milliseconds, in
        which other transactions need not wait.
        """
        if not self.is_sqlite:
            return
        try:
            log = os.open(f"{self.engine.url.database}-wal", os.O_RDONLY)
        except FileNotFoundError:
            return  # The last connection was closed: everything is in the database itself, synced.
        try:
            os.fsync(log)
        finally:
            os.close(log)

    @property
    def transient_errors(self) -> tuple[type[Exception], ...]:
        """What a Session raises when the database cannot be reached or used now, though it may later."""
        driver = self.dialect.loaded_dbapi
        return driver.OperationalError, driver.InterfaceError, OperationalError, InterfaceError

    @property
    def data_errors(self) -> tuple[type[Exception], ...]:
        """What is raised for values that the tables do not take, by a Session or before they get there."""
        driver = self.dialect.loaded_dbapi
        return driver.IntegrityError, driver.DataError, OverflowError, UnicodeEncodeError, InvalidAmount

    def close(self) -> None:
        """Close every connection that is not in use."""
        self.engine.dispose()


class Session:
    """One connection, and on it one transaction after another."""

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
        """The time by which everything in the database is dated. Within a transaction it is read anew."""
        return self.deferred_now()()

    def deferred_now(self) -> Deferred[Instant]:
        """The same, as by `ask`."""
        raise NotImplementedError

    def commit(self) -> None:
        """End it. What it wrote survives this process; only after Database.sync surely a loss of power too."""
        self._cursor.execute("COMMIT")

    def rollback(self) -> None:
        self._cursor.execute("ROLLBACK")

    def rows(self, statement: Statement, *parameters: object) -> list[Any]:
        """What a query finds, as tuples."""
        rows: list[Any] = self._cursor.execute(statement.sql, parameters).fetchall()
        return rows

    def deferred_rows(self, statement: Statement, *parameters: object) -> Deferred[list[Any]]:
        """What a query finds, to be fetched later; within a `pipeline`, after its end."""
        rows = self.rows(statement, *parameters)
        return lambda: rows

    def write(self, statement: Statement, *parameters: object) -> None:
        """Execute a statement that gives no rows."""
        self._cursor.execute(statement.sql, parameters)

    def write_many(self, statement: Statement, rows: Sequence[Sequence[object]]) -> None:
        """Execute a statement for each of the rows; nothing for none."""
        if rows:
            self._cursor.executemany(statement.sql, rows)

    def add(self, statement: Statement, rows: Sequence[Sequence[object]]) -> None:
        """Add rows by a statement of `insert_many`; nothing for none."""
        self.write_many(statement, rows)

    def pipeline(self) -> contextlib.AbstractContextManager[object]:
        """A block of statements that need not wait for one another's results: all of them are one round trip."""
        return contextlib.nullcontext()

    def values(self, values: Iterable[object]) -> object:
        """The parameter that stands for a list, see statements.one_of."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection; what was not committed is undone."""
        self._connection.close()


class _SqliteSession(Session):
    def __init__(self, engine: Engine, clock: Clock) -> None:
        super().__init__(engine)
        self._clock = clock
        self._cursor.execute("PRAGMA synchronous = NORMAL")

    def begin(self) -> None:
        self._cursor.execute("BEGIN IMMEDIATE")

    def rollback(self) -> None:
        if self._connection.in_transaction:  # SQLite ends it by itself after some errors.
            super().rollback()

    def deferred_now(self) -> Deferred[Instant]:
        return self._clock.now

    def values(self, values: Iterable[object]) -> object:
        return msgspec.json.encode(list(values)).decode()


class _PostgresqlSession(Session):
    def __init__(self, engine: Engine, busy_seconds: float) -> None:
        super().__init__(engine)
        self._connection.autocommit = True  # Transactions are begun and ended by their own statements.
        self._cursor.execute(f"SET statement_timeout = '{busy_seconds}s'")
        # Rows are looked up by an index, whatever the parameters: planning each time takes longer than running.
        self._cursor.execute("SET plan_cache_mode = force_generic_plan")

    def _new_cursor(self) -> Any:
        return self._connection.cursor(binary=True)

    def deferred_now(self) -> Deferred[Instant]:
        cursor = self._new_cursor()
        cursor.execute(_POSTGRESQL_CLOCK)
        return lambda: _instant(cursor.fetchone()[0])

    def deferred_rows(self, statement: Statement, *parameters: object) -> Deferred[list[Any]]:
        # One of its own: the next statement of the pipeline would take the rows of the last one's place.
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

    def values(self, values: Iterable[object]) -> object:
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
    # Errors are logged; what was to be written, answers among it, is not.
    engine = create_engine(url.set(drivername="sqlite"), hide_parameters=True, connect_args={"timeout": busy_seconds})
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # The driver's own idea of when to begin is not ours.
    _enable_wal(connection)
    for pragma in (
        "synchronous = FULL",
        "foreign_keys = ON",
        f"cache_size = -{_CACHE_KIBIBYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _enable_wal(connection: sqlite3.Connection) -> None:
    # A new file is changed to WAL under a lock for which SQLite does not wait, whatever its timeout.
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
    # A transaction that began by reading may not write any more after another one has.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
