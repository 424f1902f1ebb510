"""Every test of the queue runs on SQLite and on a real PostgreSQL."""

import pytest

from dragoman.accounts.database import Database
from tests.support.queues import Shop


@pytest.fixture
def shop(database: Database) -> Shop:
    """With one account and a price."""
    return Shop(database)
