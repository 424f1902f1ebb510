"""Every test of the ledger runs on SQLite and on a real PostgreSQL."""

from collections.abc import Iterator

import pytest

from dragoman.accounts.database.connections import Database
from dragoman.accounts.process.handle import LedgerProcessHandle
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.accounts.process.transport import LedgerTransport
from tests.support.accounts import LedgerHarness


@pytest.fixture
def harness(database: Database) -> Iterator[LedgerHarness]:
    """A ledger with one account, one key and one price."""
    with LedgerHarness(database) as harness:
        yield harness


@pytest.fixture(params=[LedgerProcessHandle, LedgerThread])
def transport(request: pytest.FixtureRequest) -> type[LedgerTransport]:
    """Where a client's ledger works: the client cannot tell one from the other."""
    transport: type[LedgerTransport] = request.param
    return transport
