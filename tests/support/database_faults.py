"""Faults of a real database, inflicted on it by others while it is in use, and healed at the end of a block."""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from tests.support.postgresql import WRITABLE, alter_system
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

Fault = Callable[[str], AbstractContextManager[None]]
"""Called with the database's URL."""

LIMITED_ROLE = "dragoman_limited"
"""A user of PostgreSQL who is no superuser, so that rights can be taken away."""

_WRITE_VERSION = 18
"""The byte of SQLite's header that says which version may write. One that SQLite does not know makes it read-only."""


def sqlite_path(url: str) -> Path:
    """Return SQLite's file."""
    return Path(make_url(url).database or "")


@contextlib.contextmanager
def locked_file(url: str) -> Iterator[None]:
    """Another connection writes for long."""
    connection = sqlite3.connect(sqlite_path(url), isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


@contextlib.contextmanager
def deleted_file(url: str) -> Iterator[None]:
    """The database is moved away, and comes back."""
    with _moved_away(sqlite_path(url)):
        yield


@contextlib.contextmanager
def deleted_files(url: str) -> Iterator[None]:
    """The database and its log are moved away, and come back."""
    log = Path(f"{sqlite_path(url)}-wal")
    with _moved_away(sqlite_path(url)), _moved_away(log):
        yield


@contextlib.contextmanager
def empty_file(url: str) -> Iterator[None]:
    """An empty file is in the database's place."""
    with _replaced(sqlite_path(url), lambda _: b""):
        yield


@contextlib.contextmanager
def damaged_file(url: str) -> Iterator[None]:
    """What is in the database's place is no database."""
    with _replaced(sqlite_path(url), lambda content: b"damaged!" * (len(content) // 8)):
        yield


@contextlib.contextmanager
def damaged_pages(url: str) -> Iterator[None]:
    """Every page but the first is damaged."""
    with _replaced(sqlite_path(url), lambda content: content[:4096] + b"\xff" * (len(content) - 4096)):
        yield


@contextlib.contextmanager
def read_only_file(url: str) -> Iterator[None]:
    """A newer version of SQLite is needed to write. (Tests may run as root, to whom permissions mean nothing.)"""

    def forbid_writing(content: bytes) -> bytes:
        return content[:_WRITE_VERSION] + b"\x03" + content[_WRITE_VERSION + 1 :]

    with _replaced(sqlite_path(url), forbid_writing):
        yield


@contextlib.contextmanager
def missing_tables(url: str) -> Iterator[None]:
    """Tables of the ledger and of the queue have other names."""
    for name in _RENAMED:
        _execute(url, f"ALTER TABLE {name} RENAME TO {name}_gone")
    try:
        yield
    finally:
        for name in _RENAMED:
            _execute(url, f"ALTER TABLE {name}_gone RENAME TO {name}")


_RENAMED = ("holds", "jobs", "processes", "accounts", "idempotent_requests")


@contextlib.contextmanager
def read_only_server(url: str) -> Iterator[None]:
    """Connections are cut, and new ones are read-only, as those to a stand-by after a fail-over."""
    _alter_database(url, "SET default_transaction_read_only = on")
    terminate_backends(url)
    try:
        yield
    finally:
        _alter_database(url, "RESET default_transaction_read_only")


@contextlib.contextmanager
def read_only_sessions(url: str) -> Iterator[None]:
    """Connections become read-only while they are in use."""
    alter_system(_superuser(url), "SET default_transaction_read_only = on")
    try:
        yield
    finally:
        alter_system(_superuser(url), "RESET default_transaction_read_only")


@contextlib.contextmanager
def revoked_rights(url: str) -> Iterator[None]:
    """The user may not use the tables."""
    role = sql.Identifier(LIMITED_ROLE)
    _execute(url, sql.SQL("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {}").format(role))
    try:
        yield
    finally:
        grant_rights(url)


@contextlib.contextmanager
def no_connections(url: str) -> Iterator[None]:
    """Connections are cut, and new ones refused, as while the server is shut down."""
    _alter_database(url, "ALLOW_CONNECTIONS false")
    terminate_backends(url)
    try:
        yield
    finally:
        _alter_database(url, "ALLOW_CONNECTIONS true")


@contextlib.contextmanager
def locked_tables(url: str) -> Iterator[None]:
    """Another connection keeps tables locked."""
    with psycopg.connect(_superuser(url)) as connection:
        for name in _RENAMED:
            connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(name)))
        yield
        connection.rollback()


FAULTS: dict[str, list[Fault]] = {
    "sqlite": [
        locked_file,
        deleted_file,
        deleted_files,
        empty_file,
        damaged_file,
        damaged_pages,
        read_only_file,
        missing_tables,
    ],
    "postgresql": [
        read_only_server,
        read_only_sessions,
        revoked_rights,
        missing_tables,
        no_connections,
        locked_tables,
    ],
}


def as_limited_role(url: str) -> str:
    """Create the role LIMITED_ROLE if it is missing, give it all rights, and return the URL for it."""
    create = sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(LIMITED_ROLE))
    with contextlib.suppress(psycopg.errors.DuplicateObject):
        _execute(url, create)
    grant_rights(url)
    return make_url(url).set(username=LIMITED_ROLE).render_as_string(hide_password=False)


def grant_rights(url: str) -> None:
    """Give LIMITED_ROLE all rights on the tables."""
    role = sql.Identifier(LIMITED_ROLE)
    for kind in ("TABLES", "SEQUENCES"):
        _execute(url, sql.SQL("GRANT ALL ON ALL {} IN SCHEMA public TO {}").format(sql.SQL(kind), role))


def terminate_backends(url: str) -> None:
    """Cut all connections to the database, and wait until they are."""
    name, milliseconds = make_url(url).database, TEST_TIMEOUT_SECONDS * 1000
    with psycopg.connect(_superuser(url, "postgres"), autocommit=True) as connection:
        terminate = "SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity WHERE datname = %s"
        connection.execute(terminate, (milliseconds, name))


@contextlib.contextmanager
def _moved_away(path: Path) -> Iterator[None]:
    elsewhere = path.with_name(f"{path.name}.elsewhere")
    path.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(path)


@contextlib.contextmanager
def _replaced(path: Path, change: Callable[[bytes], bytes]) -> Iterator[None]:
    """Put a changed copy in the file's place, and a backup at the end.

    The shared memory of connections to the file before is no longer at its path: SQLite would empty it under them, if
    they are connections of the process that opens the file in its place.
    """
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    backup, changed = path.with_name(f"{path.name}.backup"), path.with_name(f"{path.name}.changed")
    shutil.copyfile(path, backup)
    changed.write_bytes(change(path.read_bytes()))
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    changed.rename(path)
    try:
        yield
    finally:
        backup.rename(path)


def _execute(url: str, statement: str | sql.Composed) -> None:
    if url.startswith("sqlite"):
        assert isinstance(statement, str)
        with contextlib.closing(sqlite3.connect(sqlite_path(url))) as file:
            file.execute(statement)
            file.commit()
        return
    with psycopg.connect(_superuser(url), autocommit=True, options=WRITABLE) as server:
        server.execute(statement.encode() if isinstance(statement, str) else statement)


def _alter_database(url: str, change: str) -> None:
    name = sql.Identifier(make_url(url).database or "")
    with psycopg.connect(_superuser(url, "postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} {}").format(name, sql.SQL(change)))


def _superuser(url: str, database: str | None = None) -> str:
    parsed = make_url(url).set(username="postgres")
    if database is not None:
        parsed = parsed.set(database=database)
    return parsed.render_as_string(hide_password=False)
