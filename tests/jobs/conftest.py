"""Every test of the queue runs on SQLite and on a real PostgreSQL."""

from collections.abc import Iterator

import pytest

from dragoman.accounts.database import Database
from tests.accounts.conftest import database_url, kind, postgresql, reused_url
from tests.support.queues import Shop

__all__ = ["database_url", "kind", "postgresql", "reused_url"]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def shop(database: Database) -> Shop:
    """With one account and a price."""
    return Shop(database)
