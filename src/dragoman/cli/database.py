"""What the commands share that work on the accounts' database."""

import contextlib
import getpass
import os
from collections.abc import Iterator
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
        help="sqlite, sqlite:///PATH or postgresql://…; default: [accounts] database of the settings.",
        show_default=False,
    ),
]
ConfigOption: TypeAlias = Annotated[
    Path | None, typer.Option("--config", help="Settings file. Default: ./dragoman.toml, if any.", show_default=False)
]

USAGE_ERROR = 2
FAILURE = 1


def error_exit(message: str, status: int) -> typer.Exit:
    """Say in one line why the command cannot go on; to be raised."""
    typer.echo(f"dragoman: {' '.join(message.split())}", err=True)
    return typer.Exit(status)


@contextlib.contextmanager
def open_database(url: str | None, config: Path | None, *, current: bool = True) -> Iterator["Database"]:
    """The database, whose tables must be `current` unless that is what the command is for.

    Ends the command with one line when it cannot be used, and when what is done in the block is refused.
    """
    from dragoman.accounts.administration.accounts import AccountNotFound
    from dragoman.accounts.administration.keys import KeyNotFound
    from dragoman.accounts.database.connections import Database
    from dragoman.accounts.database.migrations import DatabaseOutdated, DatabaseTooNew, require_current
    from dragoman.server.accounts_location import AccountsUnavailable

    try:
        database = Database(_database_url(url, config))
    except (SettingsError, AccountsUnavailable) as error:
        raise error_exit(str(error), USAGE_ERROR) from error
    try:
        if current:
            require_current(database)
        yield database
    except database.transient_errors as error:
        raise error_exit(f"the accounts' database cannot be used: {error.args[0]}", FAILURE) from error
    except OSError as error:
        raise error_exit(f"the accounts cannot be kept in {error.filename}: {error.strerror}", FAILURE) from error
    except (DatabaseOutdated, DatabaseTooNew, AccountNotFound, KeyNotFound, ValueError) as error:
        raise error_exit(str(error), FAILURE) from error
    finally:
        database.close()


@contextlib.contextmanager
def open_administrator(url: str | None, config: Path | None) -> Iterator["Administrator"]:
    """Who makes changes: the user of this machine whose command it is."""
    from dragoman.accounts.administration.audit_log import Administrator

    with open_database(url, config) as database:
        yield Administrator(database, f"command line ({_user()})")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"  # Containers run under numbers that have no name.


def load_settings_with_database(url: str | None, config: Path | None) -> Settings:
    """The server's settings, with this database if it is given. Ends the command with one line when they are wrong."""
    try:
        return load_settings(config, os.environ, {DATABASE_SETTING: url})
    except SettingsError as error:
        raise error_exit(str(error), USAGE_ERROR) from error


def _database_url(url: str | None, config: Path | None) -> str:
    from dragoman.server.accounts_location import accounts_location

    location = accounts_location(load_settings(config, os.environ, {DATABASE_SETTING: url}).accounts)
    if location is None:
        raise SettingsError(
            f"no database: set [accounts] or {environment_variable(DATABASE_SETTING)}, or say --database"
        )
    return location.url
