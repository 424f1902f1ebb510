"""Fixtures of the ledger's tests, which run on SQLite and on a real PostgreSQL."""

from collections.abc import Iterator

import pytest

from dragoman.accounts.database.connections import Database
from dragoman.accounts.process.handle import LedgerProcessHandle
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.accounts.process.transport import LedgerTransport
from tests.support.ledger_harness import LedgerHarness


@pytest.fixture
def harness(database: Database) -> Iterator[LedgerHarness]:
    """A ledger with one account, one key and one price."""
    with LedgerHarness(database) as harness:
        yield harness


@pytest.fixture(params=[LedgerProcessHandle, LedgerThread])
def transport(request: pytest.FixtureRequest) -> type[LedgerTransport]:
    """Where a client's ledger runs; the client's behaviour is the same."""
    transport: type[LedgerTransport] = request.param
    return transport
