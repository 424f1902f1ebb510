"""Access to the accounts' database for the commands that use it."""

import contextlib
import getpass
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from dragoman.server.settings import Settings
from dragoman.server.settings_loading import SettingsError, environment_variable, load_settings

if TYPE_CHECKING:
    from dragoman.accounts.administration.audit_log import Administrator
    from dragoman.accounts.database.connections import Database

DATABASE_SETTING = "accounts.database"

DatabaseOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--database",
        help="sqlite, sqlite:///PATH or postgresql://… Default: [accounts] database of the settings.",
        show_default=False,
    ),
]
ConfigOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--config", help="Settings file. Default: ./dragoman.toml, if it exists.", show_default=False),
]

USAGE_ERROR = 2
FAILURE = 1


def error_exit(message: str, status: int) -> typer.Exit:
    """Print the reason for which a command fails, in one line. Return the exception to raise."""
    typer.echo(f"dragoman: {' '.join(message.split())}", err=True)
    return typer.Exit(status)


def load_settings_with_database(url: str | None, config: Path | None) -> Settings:
    """Load the server's settings, with the database `url` if it is given. Exit with one line if they are wrong."""
    if url is not None and _has_password(url):
        raise error_exit(
            "--database has a password, which every user of this machine can read while the command runs; set "
            f"{environment_variable(DATABASE_SETTING)} instead, or PGPASSWORD, or use ~/.pgpass",
            USAGE_ERROR,
        )
    try:
        return load_settings(config, os.environ, {DATABASE_SETTING: url})
    except SettingsError as error:
        raise error_exit(str(error), USAGE_ERROR) from error


def open_database(url: str | None, config: Path | None, *, current: bool = True) -> AbstractContextManager["Database"]:
    """Open the database `url`, or that of the settings: see open_database_of."""
    return open_database_of(load_settings_with_database(url, config), current=current)


def _has_password(url: str) -> bool:
    if not url.startswith("postgres"):
        return False
    authority, _, query = url.partition("://")[2].partition("?")
    return ":" in authority.rpartition("@")[0] or "password=" in query


@contextlib.contextmanager
def open_database_of(settings: Settings, *, current: bool = True) -> Iterator["Database"]:
    """Open the settings' database. With `current`, its tables must be those of this version.

    Exits with one line if the database cannot be used, or if it rejects what the block does.
    """
    from dragoman.accounts.administration.accounts import AccountNotFound
    from dragoman.accounts.administration.keys import KeyNotFound
    from dragoman.accounts.database.connections import Database, DatabaseUnavailable
    from dragoman.accounts.database.migrations import DatabaseOutdated, DatabaseTooNew, require_current

    database = Database(_database_url(settings))
    try:
        if current:
            require_current(database)
        yield database
    except DatabaseUnavailable as error:
        raise error_exit(f"the accounts' database cannot be used: {error}", FAILURE) from error
    except OSError as error:
        raise error_exit(f"the accounts cannot be kept in {error.filename}: {error.strerror}", FAILURE) from error
    except (DatabaseOutdated, DatabaseTooNew, AccountNotFound, KeyNotFound, ValueError) as error:
        raise error_exit(str(error), FAILURE) from error
    finally:
        database.close()


@contextlib.contextmanager
def open_administrator(url: str | None, config: Path | None) -> Iterator["Administrator"]:
    """Open the database for changes, which are recorded under the name of this machine's user."""
    from dragoman.accounts.administration.audit_log import Administrator

    with open_database(url, config) as database:
        yield Administrator(database, f"command line ({_user()})")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"  # In containers, numbers often have no name.


def _database_url(settings: Settings) -> str:
    from dragoman.server.accounts_location import AccountsUnavailable, accounts_location

    try:
        location = accounts_location(settings.accounts)
    except AccountsUnavailable as error:
        raise error_exit(str(error), USAGE_ERROR) from error
    if location is None:
        raise error_exit(
            "no database: the settings, ./dragoman.toml or --config FILE, have no [accounts]; add it, or pass "
            f"--database, or set {environment_variable(DATABASE_SETTING)}",
            USAGE_ERROR,
        )
    return location.url
