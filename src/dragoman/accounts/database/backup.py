"""Copies of a database that is in use, each the state at one moment.

SQLite's backup interface copies the file (https://www.sqlite.org/backup.html); PostgreSQL's own `pg_dump` is run, whose
version must not be older than the server's.
"""

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from dragoman.accounts.database.connections import Database
from dragoman.accounts.private_files import create_private_file

_WRITE_ERRORS = frozenset(
    {
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC),
        *(sqlite3.SQLITE_IOERR_TRUNCATE, sqlite3.SQLITE_IOERR_DELETE),
    }
)


class BackupFailed(Exception):
    """There is no backup. The message is one line for people."""


def back_up(database: Database, target: Path, *, pg_dump: str = "pg_dump") -> None:
    """Write a backup to the new file `target`, which only its owner may read. Transactions go on meanwhile.

    `pg_dump` is the program for PostgreSQL. Raises BackupFailed and DatabaseUnavailable, and then leaves no file.
    """
    with _new_file(target) as partial:
        if database.is_sqlite:
            _copy_sqlite(database, partial)
        else:
            _dump_postgresql(database.url, partial, pg_dump)


def find_damage(database: Database) -> list[str]:
    """Have SQLite check its file and its references. Return the problems; PostgreSQL checks its pages when it reads."""
    if not database.is_sqlite:
        return []
    with database.read() as connection:
        found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check") if row[0] != "ok"]
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    return [*found, *(f"row {row[1]} of {row[0]} refers to a missing row of {row[2]}" for row in broken)]


@contextmanager
def _new_file(target: Path) -> Iterator[Path]:
    """Make a private file beside `target` that takes its place at the end of the block, once it is on the disk."""
    partial = target.with_name(f"{target.name}.partial")
    try:
        if target.exists():
            raise BackupFailed(f"{target} exists; choose another name")
        partial.unlink(missing_ok=True)
        create_private_file(partial)
        try:
            yield partial
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise BackupFailed(f"{target} cannot be written: {error.strerror}") from error


def _copy_sqlite(database: Database, target: Path) -> None:
    with database.read() as connection, closing(sqlite3.connect(target)) as copy:
        source: Any = connection.connection.dbapi_connection
        try:
            # In one go: between two steps, other transactions would make SQLite begin anew.
            source.backup(copy, pages=-1)
            # A single file, without a log beside it. A server that uses it goes back to the log.
            copy.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode in _WRITE_ERRORS:  # The database is only read.
                raise OSError(None, str(error)) from error
            raise


def _dump_postgresql(url: str, target: Path, program: str) -> None:
    parsed = make_url(url).set(drivername="postgresql")
    environment = dict(os.environ)
    if parsed.password:
        environment["PGPASSWORD"] = str(parsed.password)  # Every user of the machine can read arguments.
    address = parsed.set(password=None).render_as_string(hide_password=False)
    command = [program, "--format=custom", "--no-owner", "--no-privileges", f"--file={target}", f"--dbname={address}"]
    try:
        finished = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        raise BackupFailed(f"the program {program} is missing; install PostgreSQL's client programs") from None
    if finished.returncode:
        raise BackupFailed(f"{program} failed: {' '.join(finished.stderr.split())}")
