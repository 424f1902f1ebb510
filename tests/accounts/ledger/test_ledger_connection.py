"""What a ledger does when PostgreSQL has closed the connection that it kept."""

import pytest

from dragoman.accounts.ledger.operations import Admitted
from tests.support.database_faults import terminate_backends
from tests.support.ledger_harness import LedgerHarness


def test_a_connection_that_was_closed_while_it_was_idle_is_replaced(harness: LedgerHarness) -> None:
    if harness.database.is_sqlite:
        pytest.skip("SQLite has no server that closes connections")
    harness.admit()
    terminate_backends(harness.database.url)
    [admitted] = harness.ledger.commit([harness.admission()])
    assert isinstance(admitted, Admitted)
    terminate_backends(harness.database.url)
    assert harness.ledger.transaction(lambda session, _now: session.now()).wall
