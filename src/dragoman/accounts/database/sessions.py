"""The driver's connections without SQLAlchemy between: sessions of the ledger and the queue, and SQLite's own.

A session runs SQLAlchemy's statements, compiled once (statements.py), on the driver's cursor. Measured, SQLAlchemy's
execution would take as long as SQLite itself.
"""

import contextlib
import os
import select
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import quote

import msgspec
from sqlalchemy import Engine

from dragoman.accounts.database.failures import DatabaseUnavailable
from dragoman.accounts.database.statements import Statement

if TYPE_CHECKING:
    from dragoman.accounts.database.pipeline import Row

_CHECK_SECONDS = 1.0

_SILENCE_SHARE = 0.6
"""Of the time that others wait for a lock: for so long PostgreSQL keeps the locks of a session that says nothing."""

POSTGRESQL_CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"


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


def instant(milliseconds: int) -> Instant:
    return Instant(milliseconds, milliseconds // 1000)


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

    @property
    def has_ended(self) -> bool:
        """Whether the server has closed the connection since the last transaction."""
        return False

    def begin(self) -> None:
        """Begin a transaction."""
        self._control("BEGIN")

    def now(self) -> Instant:
        """Return the time that all timestamps in the database come from, read again at each call."""
        raise NotImplementedError

    def commit(self) -> None:
        """Commit. The writes survive the process; only `sync_log` makes sure that they survive a loss of power."""
        self._control("COMMIT")

    def rollback(self) -> None:
        """Roll the transaction back."""
        self._control("ROLLBACK")

    @contextlib.contextmanager
    def releasing_locks(self) -> Iterator[None]:
        """Release the locks that statements of the block take at its end, within a transaction."""
        self._control("SAVEPOINT block")
        yield
        self._control("ROLLBACK TO SAVEPOINT block")

    def rows(self, statement: Statement, *parameters: object) -> list[Any]:
        """Run a query and return its rows as tuples."""
        rows: list[Any] = self._cursor.execute(statement.sql, parameters).fetchall()
        return rows

    def write(self, statement: Statement, *parameters: object) -> None:
        """Execute a statement that returns no rows."""
        self._cursor.execute(statement.sql, parameters)

    def write_many(self, statement: Statement, rows: Sequence[Sequence[object]]) -> None:
        """Execute a statement for each of the rows, if any."""
        if rows:
            self._cursor.executemany(statement.sql, rows)

    def pipeline(self) -> contextlib.AbstractContextManager[object]:
        """Open a block of statements that return no rows and do not wait for each other: one round trip for all."""
        return contextlib.nullcontext()

    def list_parameter(self, values: Iterable[object]) -> object:
        """Encode a list as one parameter, see statements.in_list."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection and roll back what was not committed."""
        self._cursor.close()  # SQLite keeps a connection's files open for as long as there are statements of it.
        self._connection.close()

    def _control(self, sql: str) -> None:
        """Begin or end a transaction."""
        self._cursor.execute(sql)


class SqliteSession(Session):
    def __init__(self, engine: Engine, clock: Clock) -> None:
        super().__init__(engine)
        self._clock = clock
        self._cursor.execute("PRAGMA synchronous = NORMAL")

    @property
    def is_current(self) -> bool:
        current: bool = self._connection.is_current
        return current

    def begin(self) -> None:
        self._control("BEGIN IMMEDIATE")

    def commit(self) -> None:
        super().commit()
        self._connection.check_often()

    def rollback(self) -> None:
        if self._connection.in_transaction:  # After some errors SQLite has already rolled back.
            super().rollback()

    def now(self) -> Instant:
        return self._clock.now()

    def list_parameter(self, values: Iterable[object]) -> object:
        return msgspec.json.encode(list(values)).decode()


class PostgresqlSession(Session):
    def __init__(self, engine: Engine, busy_seconds: float, lock_seconds: float | None = None) -> None:
        from dragoman.accounts.database.pipeline import Pipeline  # psycopg takes long to import.

        super().__init__(engine)
        self._connection.answer_seconds = 3 * busy_seconds
        self._connection.autocommit = True  # BEGIN, COMMIT and ROLLBACK are executed explicitly.
        self._cursor.execute(f"SET statement_timeout = '{busy_seconds}s'")
        if lock_seconds is not None:
            self._cursor.execute(f"SET lock_timeout = {max(1, round(lock_seconds * 1000))}")
        # A machine that is cut off within a transaction would keep accounts locked for all others.
        self._cursor.execute(f"SET idle_in_transaction_session_timeout = '{_SILENCE_SHARE * busy_seconds}s'")
        # Every plan is an index lookup, whatever the parameters; planning each time would take longer than execution.
        self._cursor.execute("SET plan_cache_mode = force_generic_plan")
        self._pipeline = Pipeline(self._connection)

    def _new_cursor(self) -> Any:
        return self._connection.cursor(binary=True)

    @property
    def has_ended(self) -> bool:
        # Whatever it says between transactions, it is mostly goodbye: it was restarted, or has waited for too long.
        messages = select.poll()
        messages.register(self._connection.fileno(), select.POLLIN)
        return bool(messages.poll(0))

    def now(self) -> Instant:
        return instant(self._cursor.execute(POSTGRESQL_CLOCK).fetchone()[0])

    def write(self, statement: Statement, *parameters: object) -> None:
        if self._pipeline.is_open:
            self._pipeline.add(statement.sql, parameters)
        else:
            self._cursor.execute(statement.sql, parameters)

    def deferred_rows(self, statement: Statement, *parameters: object) -> "Callable[[], list[Row]]":
        """Run a query within a `pipeline`, and return what fetches its rows after the end."""
        return self._pipeline.add(statement.sql, parameters)

    def pipeline(self) -> contextlib.AbstractContextManager[object]:
        return self._pipeline

    def list_parameter(self, values: Iterable[object]) -> object:
        return list(values)

    def _control(self, sql: str) -> None:
        # After a ROLLBACK of its own, psycopg would deallocate all prepared statements.
        with contextlib.nullcontext() if self._pipeline.is_open else self._pipeline:
            self._pipeline.add(sql)


class SqliteConnection(sqlite3.Connection):
    """A connection that notices when its database was deleted or replaced while it is open.

    The system keeps deleted files for those who have them open: without a check, commits would succeed and be lost.
    """

    def __init__(self, path: str, busy_seconds: float) -> None:
        """Open an existing file; a server whose database was deleted must not go on with an empty one."""
        file = os.path.realpath(path)  # SQLite puts the log beside the file that a link points to.
        self._paths = path, f"{file}-wal"
        before = _identify_files(*self._paths)
        # Until the connection has read, another process may still delete the log.
        self._files: tuple[object, ...] = (before[0], None, None)
        self._next_check = 0.0
        super().__init__(f"file:{quote(file)}?mode=rw", uri=True, timeout=busy_seconds, check_same_thread=False)

    @property
    def is_current(self) -> bool:
        """Whether database and log are still the files at their paths."""
        found = _identify_files(*self._paths)
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
        """Close the connection. It is kept instead if its files are gone, see _keep_unclosed."""
        with contextlib.suppress(sqlite3.Error):  # SQLite would keep its locks as long as one of its cursors exists.
            self.rollback()
        if self.is_current:
            super().close()
            return
        _keep_unclosed(self, Path(self._paths[1]), self._files[2])


def sync_log(path: str) -> None:
    """Wait until commits to SQLite's file are on the disk. Raises DatabaseUnavailable.

    PostgreSQL's commits have waited for the disk already: holds must outlive a crash of the database server, since the
    processes that made them live on. SQLite's commits have only written the log: a sync may take milliseconds, and
    other transactions need not wait for it.
    """
    try:
        log = os.open(f"{os.path.realpath(path)}-wal", os.O_RDONLY)
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


def _identify_files(path: str, log_path: str) -> tuple[object, ...]:
    """Identify SQLite's database, whether it has content, and its log; None: there is none."""
    file, log = _status(Path(path)), _status(Path(log_path))
    return (
        None if file is None else (file.st_dev, file.st_ino),
        None if file is None or not file.st_size else True,
        None if log is None else (log.st_dev, log.st_ino),
    )


def _keep_unclosed(connection: sqlite3.Connection, log_path: Path, own_log: object) -> None:
    """Keep a connection until the process ends, whose database or log was deleted or replaced.

    When SQLite closes the last connection of a database, it deletes the log by its path, where by now the log of
    another database may be. `own_log` identifies the connection's log. Unless another one is at the path, it is written
    to the database that it belongs to: no other database may be opened with it. If only the log was deleted, this saves
    what it contains.
    """
    import ctypes  # Imported lazily: databases are rarely deleted.

    log = _status(log_path)
    if log is None or (log.st_size and (log.st_dev, log.st_ino) == own_log):
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))  # Python would close it, too, at its own end.


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
