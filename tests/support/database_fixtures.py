"""Databases for tests that run on SQLite and on a real PostgreSQL; a plugin of the whole run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from tests.support.ledger_harness import clear_tables
from tests.support.postgresql import PostgresServer, new_database, running_postgresql
from tests.support.sqlite_files import create_sqlite_database


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the whole run."""
    with running_postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def reused_url(postgresql: PostgresServer) -> str:
    """The URL of a database with tables: emptying them is faster than creating them."""
    url = new_database(postgresql)
    database = Database(url)
    upgrade(database)
    database.close()
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of database; every test with a database runs on each."""
    return str(request.param)


@pytest.fixture
def empty_database_url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/accounts.db"
    return new_database(request.getfixturevalue("postgresql"))


@pytest.fixture
def database_url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with the newest tables, without rows."""
    if kind == "sqlite":
        return create_sqlite_database(tmp_path / "accounts.db")
    url: str = request.getfixturevalue("reused_url")
    database = Database(url)
    clear_tables(database)
    database.close()
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The database at `database_url`."""
    database = Database(database_url)
    yield database
    database.close()
