"""SQLite databases with the newest tables, as copies: copying one is faster than creating its tables and rows."""

import atexit
import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade

_Result = TypeVar("_Result")


class SqliteTemplate(NamedTuple, Generic[_Result]):
    """A database that is only copied."""

    path: Path
    result: _Result
    """What the function that wrote its rows returned."""

    def copy_to(self, path: Path) -> str:
        """Create a database with the same rows at `path`, and return its URL."""
        shutil.copy(self.path, path)
        return f"sqlite:///{path}"


def create_sqlite_template(write_rows: Callable[[Database], _Result]) -> SqliteTemplate[_Result]:
    """Create a database with rows, which is deleted when the process ends."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    path = Path(folder.name, "accounts.db")
    with contextlib.closing(Database(create_sqlite_database(path))) as database:
        return SqliteTemplate(path, write_rows(database))


def create_sqlite_database(path: Path) -> str:
    """Create a database without rows at `path`, and return its URL."""
    return _empty_database().copy_to(path)


@functools.cache
def _empty_database() -> SqliteTemplate[None]:
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    path = Path(folder.name, "accounts.db")
    with contextlib.closing(Database(f"sqlite:///{path}")) as database:
        upgrade(database)
    return SqliteTemplate(path, None)
