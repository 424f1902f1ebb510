"""SQLAlchemy's engines for SQLite and PostgreSQL, and how they open connections."""

import logging
import sqlite3
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from dragoman.accounts.database.failures import find_outage, keeps_connection

_CACHE_KIBIBYTES = 16_384
"""SQLite's page cache for each connection; enough for the upper levels of every index."""

_CHECKPOINT_PAGES = 8_000
"""Pages of the log, 33 MB, after which a commit copies them to the database, which takes some 20 ms. Most of them are
the same pages again."""

_WAL_RETRY_SECONDS = 0.01

_DETECTION = {"keepalives_idle": 2, "keepalives_interval": 1, "keepalives_count": 2, "user_timeout": 4000}
"""TCP's settings on both sides: a machine that is gone is noticed within 4 seconds, before others that wait for its
locks give up. Keepalives are not sent while an answer to it is under way, nor does PostgreSQL's own timeout of idle
transactions pass within a pipeline; the last one (in milliseconds) does."""

_CONNECT_SECONDS = 5

SqliteFactory = Callable[[str, float], sqlite3.Connection]
"""Opens a file; called with its path and the seconds to wait for locks. Connections have the property `is_current`."""


class InvalidDatabaseUrl(ValueError):
    """Not a URL of a database that dragoman can use."""


def open_engine(
    url: str, busy_seconds: float, sqlite_factory: SqliteFactory, *, answer_seconds: float | None
) -> Engine:
    """Return the engine of a database, which connects at the first use. Raises InvalidDatabaseUrl.

    A statement waits `busy_seconds` for locks of other transactions, and `answer_seconds` for an answer of PostgreSQL,
    or without a limit. SQLite's connections are made by `sqlite_factory`.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # A port that is no number is the latter.
        raise InvalidDatabaseUrl("Not a database URL; write sqlite:///… or postgresql://…") from None
    kind = parsed.get_backend_name()
    if kind == "sqlite" and parsed.database == ":memory:":
        raise InvalidDatabaseUrl("A database in memory cannot be shared by processes; write sqlite:///…")
    if kind == "sqlite" and parsed.query:
        raise InvalidDatabaseUrl(f"SQLite's URL has options that dragoman does not use: {', '.join(parsed.query)}")
    if kind == "sqlite" and parsed.database:
        engine = _sqlite_engine(parsed, parsed.database, busy_seconds, sqlite_factory)
    elif kind in ("postgresql", "postgres"):
        engine = _postgresql_engine(parsed, busy_seconds, answer_seconds)
    else:
        raise InvalidDatabaseUrl(f"Not a database dragoman can use: {kind}; write sqlite:///… or postgresql://…")
    event.listen(engine, "handle_error", _discard_connection)
    return engine


def _discard_connection(context: ExceptionContext) -> None:
    """Discard the pool's connections after an outage: the next one may reach another server, or have other rights."""
    error = context.original_exception
    if find_outage(error) is not None and not keeps_connection(error):
        context.is_disconnect = True


def _postgresql_engine(url: URL, busy_seconds: float, answer_seconds: float | None) -> Engine:
    from dragoman.accounts.database.deadlines import connect_with_deadline  # psycopg takes long to import.

    _check_options(url)
    options = [
        *_texts(url.query.get("options", ())),
        # A statement sees what others have committed while it waited for their locks, whatever the database's default.
        r"-c default_transaction_isolation=read\ committed",
        # Both sides detect that the other machine is gone, so that it does not keep accounts locked.
        "-c idle_in_transaction_session_timeout=10s",
        *(f"-c tcp_{name}={value}" for name, value in _DETECTION.items()),
        f"-c lock_timeout={round(busy_seconds * 1000)}",
    ]
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # It logs what it then raises.
    user_timeout = {"tcp_user_timeout": _DETECTION["user_timeout"]}
    keepalives = {name: value for name, value in _DETECTION.items() if name != "user_timeout"}
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        paramstyle="format",
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "connect_timeout": _CONNECT_SECONDS,
            "client_encoding": "utf8",
            "options": " ".join(options),
            **keepalives,
            **user_timeout,
        },
    )
    connect_with_deadline(engine, answer_seconds)
    return engine


def _check_options(url: URL) -> None:
    """Raise InvalidDatabaseUrl for an option that libpq does not know: it would fail at the first connection."""
    import psycopg

    try:
        psycopg.conninfo.make_conninfo(**dict.fromkeys(url.query, ""))
    except psycopg.ProgrammingError as error:
        raise InvalidDatabaseUrl(f"The database URL has an {str(error).strip()}") from None


def _texts(parameter: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the values of a parameter of a URL."""
    return (parameter,) if isinstance(parameter, str) else parameter


def _sqlite_engine(url: URL, path: str, busy_seconds: float, factory: SqliteFactory) -> Engine:
    def connect() -> sqlite3.Connection:
        connection = factory(path, busy_seconds)
        try:
            _configure_sqlite(connection, busy_seconds)
        except BaseException:
            connection.close()
            raise
        return connection

    # Errors are logged; the values to be written, clients' answers among them, are not.
    engine = create_engine(url.set(drivername="sqlite"), hide_parameters=True, creator=connect)
    event.listen(engine, "begin", _begin_sqlite)
    event.listen(engine, "checkout", _check_files)
    return engine


def _check_files(connection: Any, _entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    if not connection.is_current:
        raise DisconnectionError  # The pool then opens another connection.


def _configure_sqlite(connection: sqlite3.Connection, busy_seconds: float) -> None:
    connection.isolation_level = None  # The driver must not begin transactions by itself.
    _enable_wal(connection, busy_seconds)
    for pragma in (
        "synchronous = FULL",
        "foreign_keys = ON",
        f"cache_size = -{_CACHE_KIBIBYTES}",
        f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
    ):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # From now on nobody else deletes the log.


def _enable_wal(connection: sqlite3.Connection, busy_seconds: float) -> None:
    # SQLite changes a new file to WAL under a lock that it does not wait for, whatever the busy timeout.
    deadline = time.monotonic() + busy_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if time.monotonic() > deadline or not keeps_connection(error):
                raise
            time.sleep(_WAL_RETRY_SECONDS)


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that began with a read cannot write after another one has written.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
