"""Fixtures of the queue's tests, which run on SQLite and on a real PostgreSQL."""

from pathlib import Path

import pytest

from dragoman.accounts.database.connections import Database
from tests.support.jobs.queue_harness import QueueHarness


@pytest.fixture
def harness(database: Database) -> QueueHarness:
    """A database with one account and a price."""
    return QueueHarness(database)


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    """A directory for the journals of the ledger."""
    return tmp_path / "journals"
