"""Every test of the ledger runs on SQLite and on a real PostgreSQL."""

from collections.abc import Iterator

import pytest

from dragoman.accounts.database import Database
from tests.support.accounts import Till
from tests.support.database_fixtures import database, database_url, empty_database_url, kind, postgresql, reused_url

__all__ = ["database", "database_url", "empty_database_url", "kind", "postgresql", "reused_url"]


@pytest.fixture
def till(database: Database) -> Iterator[Till]:
    """A ledger with one account, one key and one price."""
    with Till(database) as till:
        yield till
