"""Every test of the queue runs on SQLite and on a real PostgreSQL."""

import pytest

from dragoman.accounts.database.connections import Database
from tests.support.queues import QueueHarness


@pytest.fixture
def harness(database: Database) -> QueueHarness:
    """With one account and a price."""
    return QueueHarness(database)
