"""The accounts' database of a server in this process."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.gateway.execution.stored_responses import MAX_RESPONSE_BYTES
from dragoman.gateway.ledger_connection import AccountsOptions
from dragoman.server.accounting import AccountingServices
from tests.support.ledger_harness import LedgerHarness

ADMIN_KEY = "sk-admin-0123456789abcdef"


@contextlib.contextmanager
def open_ledger_harness(url: str) -> Iterator[LedgerHarness]:
    """Open a ledger harness on the database, and create missing tables."""
    database = Database(url)
    try:
        upgrade(database)
        with LedgerHarness(database) as harness:
            yield harness
    finally:
        database.close()


@contextlib.contextmanager
def accounting_at(
    url: str, journals: Path, *, max_response_bytes: int = MAX_RESPONSE_BYTES
) -> Iterator[AccountingServices]:
    """Make a worker's accounting services on an upgraded database, unopened: this process is not registered."""
    accounting = AccountingServices(
        AccountsOptions(database=Database(url), journals=journals, transport=LedgerThread),
        max_response_bytes=max_response_bytes,
    )
    try:
        yield accounting
    finally:
        accounting.close()
