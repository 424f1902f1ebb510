"""SQLite databases with the newest tables."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade


def create_sqlite_database(path: Path) -> str:
    """Create a database without rows at `path`, and return its URL. Copying it is faster than creating its tables."""
    shutil.copy(_empty_database(), path)
    return f"sqlite:///{path}"


@functools.cache
def _empty_database() -> Path:
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    path = Path(folder.name, "accounts.db")
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    database.close()
    return path
