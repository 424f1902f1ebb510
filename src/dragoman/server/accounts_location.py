"""The accounts' database and journals: where the settings put them, and their preparation."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dragoman.accounts.private_files import create_private_folder, restrict_to_owner
from dragoman.core import logs
from dragoman.server.settings import DEFAULT_DATABASE, AccountsSettings

# SQLAlchemy is imported where it is used: it takes a tenth of a second, and the engines need not wait for it to start.
if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from dragoman.accounts.database.connections import Database

DATABASE_VARIABLE = "DRAGOMAN_WORKER_DATABASE_URL"
"""Passes the URL to workers. It may hold a password, and other users can read a process's arguments."""


_log = logs.get_logger(__name__)


class AccountsUnavailable(Exception):
    """The accounts cannot be used as they are set. The message is one line for people."""


class AccountsLocation(NamedTuple):
    """A database of accounts and its journals."""

    url: str
    journal_dir: Path
    """Directory of the journals of running requests, on a local disk."""

    @property
    def database_digest(self) -> str:
        """What distinguishes the database from others. The password is no part of it."""
        from sqlalchemy.engine import make_url

        return _digest(make_url(self.url))

    def prepare(self) -> None:
        """Create missing directories, and the tables of a new database. Raises AccountsUnavailable.

        Several processes may do so at the same time: a database whose tables are being made looks like an outdated one.
        What exists already and belongs to this user is closed to others, since it holds prompts and answers.
        """
        from dragoman.accounts.database.connections import Database, DatabaseUnavailable
        from dragoman.accounts.database.migrations import (
            DatabaseOutdated,
            DatabaseTooNew,
            migration_status,
            require_current,
            require_writable,
            upgrade,
        )

        database = Database(self.url)
        try:
            create_database_folder(database)
            create_private_folder(self.journal_dir)
            with _locked(self.journal_dir):
                if not migration_status(database).applied:
                    upgrade(database)
                require_current(database)
                require_writable(database)
            # Not before: a path that was mistyped may be that of any file.
            if restricted := restrict_to_owner(self._private_paths(database)):
                _log.warning("permissions_restricted", paths=[str(path) for path in restricted])
        except OSError as error:
            raise AccountsUnavailable(f"the accounts cannot be kept in {error.filename}: {error.strerror}") from error
        except (DatabaseOutdated, DatabaseTooNew) as error:
            raise AccountsUnavailable(str(error)) from error
        except DatabaseUnavailable as error:
            raise AccountsUnavailable(f"the accounts' database cannot be used: {error}") from error
        finally:
            database.close()

    def _private_paths(self, database: "Database") -> Iterator[Path]:
        """Yield the existing files of the database and its journals, and folders that hold nothing else."""
        from dragoman.accounts.process.journal import is_journal_file

        yield from _own_paths(self.journal_dir, is_journal_file)
        if database.is_sqlite:
            file = Path(database.path).absolute()
            names = {f"{file.name}{ending}" for ending in ("", "-wal", "-shm", "-journal")}
            names.add(_journal_dir_beside(file).name)
            yield from _own_paths(file.parent, names.__contains__)


def _own_paths(folder: Path, is_own: Callable[[str], bool]) -> Iterator[Path]:
    """Yield the paths in a folder whose names are own ones, and the folder, which may be any, if all are."""
    paths = list(folder.iterdir())
    own = [path for path in paths if is_own(path.name)]
    yield from own
    if len(own) == len(paths):
        yield folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process of this machine after the other run the block."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def create_database_folder(database: "Database") -> None:
    """Create the directory of SQLite's file if it is missing. Raises OSError."""
    if database.is_sqlite:
        create_private_folder(Path(database.path).parent)


def accounts_location(settings: AccountsSettings) -> AccountsLocation | None:
    """Return the location that the settings give, or None if there are no accounts. Raises AccountsUnavailable."""
    if settings.database is None:
        return None
    from dragoman.accounts.database.connections import Database, InvalidDatabaseUrl

    url = default_location().url if settings.database == DEFAULT_DATABASE else settings.database
    try:
        parsed = Database(url).engine.url
    except InvalidDatabaseUrl as error:
        raise AccountsUnavailable(f"accounts.database: {error}") from error
    try:
        journal_dir = Path(settings.journal_dir).expanduser() if settings.journal_dir else _default_journal_dir(parsed)
    except RuntimeError as error:
        raise AccountsUnavailable(f"accounts.journal_dir: {error}") from None
    return AccountsLocation(url, journal_dir.absolute())


def default_location() -> AccountsLocation:
    """Return a SQLite file in the user's data directory. Raises AccountsUnavailable if there is none."""
    file = data_folder() / "accounts.db"
    return AccountsLocation(f"sqlite:///{file}", _journal_dir_beside(file))


def _default_journal_dir(database: "URL") -> Path:
    if database.get_backend_name() == "sqlite":
        return _journal_dir_beside(database.database)
    return data_folder() / "journals" / _digest(database)


def _digest(database: "URL") -> str:
    """Return what distinguishes the database from others. The password is no part of it."""
    return hashlib.sha256(database.set(password=None).render_as_string().encode()).hexdigest()[:16]


def _journal_dir_beside(file: Path | str | None) -> Path:
    return Path(f"{file}.journals")


def data_folder() -> Path:
    """Return the data directory of the XDG base directory specification."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    try:
        return Path(base).expanduser() / "dragoman"
    except RuntimeError:
        raise AccountsUnavailable(
            "the user has no home directory to keep files in; set XDG_DATA_HOME to a folder"
        ) from None
