"""The accounts' database and journals: where the settings put them, and their preparation."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from sqlalchemy.engine import URL

from dragoman.accounts.database.connections import Database, InvalidDatabaseUrl
from dragoman.accounts.database.migrations import (
    DatabaseOutdated,
    DatabaseTooNew,
    migration_status,
    require_current,
    upgrade,
)
from dragoman.server.settings import DEFAULT_DATABASE, AccountsSettings

DATABASE_VARIABLE = "DRAGOMAN_WORKER_DATABASE_URL"
"""Passes the URL to workers. It may hold a password, and other users can read a process's arguments."""


class AccountsUnavailable(Exception):
    """The accounts cannot be used as they are set. The message is one line for people."""


class AccountsLocation(NamedTuple):
    """A database of accounts and its journals."""

    url: str
    journal_dir: Path
    """Directory of the journals of running requests, on a local disk."""

    def prepare(self) -> None:
        """Create missing directories, and the tables of a new database. Raises AccountsUnavailable."""
        database = Database(self.url)
        try:
            create_database_folder(database)
            self.journal_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not migration_status(database).applied:
                upgrade(database)
            require_current(database)
        except OSError as error:
            raise AccountsUnavailable(f"the accounts cannot be kept in {error.filename}: {error.strerror}") from error
        except (DatabaseOutdated, DatabaseTooNew) as error:
            raise AccountsUnavailable(str(error)) from error
        except database.transient_errors as error:
            reason = str(getattr(error, "orig", error)).strip().partition("\n")[0]
            raise AccountsUnavailable(f"the accounts' database cannot be used: {reason}") from error
        finally:
            database.close()


def create_database_folder(database: Database) -> None:
    """Create the directory of SQLite's file if it is missing. Raises OSError."""
    if database.is_sqlite:
        Path(database.engine.url.database or "").parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def accounts_location(settings: AccountsSettings) -> AccountsLocation | None:
    """Return the location that the settings give, or None if there are no accounts. Raises AccountsUnavailable."""
    if settings.database is None:
        return None
    default = default_location()
    url = default.url if settings.database == DEFAULT_DATABASE else settings.database
    try:
        parsed = Database(url).engine.url
    except InvalidDatabaseUrl as error:
        raise AccountsUnavailable(f"accounts.database: {error}") from error
    journal_dir = Path(settings.journal_dir).expanduser() if settings.journal_dir else _default_journal_dir(parsed)
    return AccountsLocation(url, journal_dir.absolute())


def default_location() -> AccountsLocation:
    """Return a SQLite file in the user's data directory."""
    file = _data_folder() / "accounts.db"
    return AccountsLocation(f"sqlite:///{file}", _journal_dir_beside(file))


def _default_journal_dir(database: URL) -> Path:
    if database.get_backend_name() == "sqlite":
        return _journal_dir_beside(database.database)
    without_password = database.set(password=None).render_as_string()
    return _data_folder() / "journals" / hashlib.sha256(without_password.encode()).hexdigest()[:16]


def _journal_dir_beside(file: Path | str | None) -> Path:
    return Path(f"{file}.journals")


def _data_folder() -> Path:
    """Return the data directory of the XDG base directory specification."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "dragoman"
