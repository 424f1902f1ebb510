"""Every test of the queue runs on SQLite and on a real PostgreSQL."""

import pytest

from dragoman.accounts.database import Database
from tests.support.database_fixtures import database, database_url, kind, postgresql, reused_url
from tests.support.queues import Shop

__all__ = ["database", "database_url", "kind", "postgresql", "reused_url"]


@pytest.fixture
def shop(database: Database) -> Shop:
    """With one account and a price."""
    return Shop(database)
