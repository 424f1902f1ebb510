"""Every test of the ledger runs on SQLite and on a real PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dragoman.accounts.database import Database
from dragoman.accounts.migrations import upgrade
from tests.support.accounts import Till
from tests.support.postgresql import PostgresServer, new_database, running_postgresql


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the whole run."""
    with running_postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new and empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/accounts.db"
    return new_database(request.getfixturevalue("postgresql"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A new database with the newest tables."""
    database = Database(database_url)
    upgrade(database)
    yield database
    database.close()


@pytest.fixture
def till(database: Database) -> Iterator[Till]:
    """A ledger with one account, one key and one price."""
    with Till(database) as till:
        yield till
