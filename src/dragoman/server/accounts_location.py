"""From [accounts] to a database that can be used."""

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

DATABASE_VARIABLE = "DRAGOMAN_WORKER_DATABASE"
"""How workers are told the database: its URL may hold a password, and a process's arguments can be read by others."""


class AccountsUnavailable(Exception):
    """The accounts cannot be used as they are set. One line for a person."""


class AccountsLocation(NamedTuple):
    """Where accounts are."""

    url: str
    journal_dir: Path
    """The folder of what running requests have to pay, on this machine's own disk."""

    def prepare(self) -> None:
        """Make what is missing: folders, and the tables of a new database. Raises AccountsUnavailable."""
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
    """That of the database's file, should it be missing. Raises OSError."""
    if database.is_sqlite:
        Path(database.engine.url.database or "").parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def accounts_location(settings: AccountsSettings) -> AccountsLocation | None:
    """Where the settings put the accounts; None: nowhere. Raises AccountsUnavailable."""
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
    """A SQLite file among the user's data."""
    file = _data_folder() / "accounts.db"
    return AccountsLocation(f"sqlite:///{file}", _journal_dir_beside(file))


def _default_journal_dir(database: URL) -> Path:
    if database.get_backend_name() == "sqlite":
        return _journal_dir_beside(database.database)
    named = database.set(password=None).render_as_string()
    return _data_folder() / "journals" / hashlib.sha256(named.encode()).hexdigest()[:16]


def _journal_dir_beside(file: Path | str | None) -> Path:
    return Path(f"{file}.journals")


def _data_folder() -> Path:
    """As the XDG base directory specification has it."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "dragoman"
