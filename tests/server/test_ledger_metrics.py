"""What the metrics say about a ledger."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from dragoman.accounts.database.connections import Database
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.accounts.process.messages import LedgerReply
from dragoman.accounts.process.transport import LedgerTransport
from dragoman.core.errors import LedgerUnavailable
from dragoman.gateway.ledger_connection import AccountsOptions, LedgerConnection
from dragoman.server.ledger_metrics import LedgerMetrics
from tests.support.database_faults import locked_file
from tests.support.ledger_harness import LedgerHarness
from tests.support.sqlite_files import create_sqlite_database
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


class EndingThread(LedgerThread):
    """A ledger that ends after one answer, as a process that dies."""

    async def run(self, handle: Callable[[LedgerReply], None]) -> None:
        answered = asyncio.Event()

        def handle_once(reply: LedgerReply) -> None:
            if not answered.is_set():
                handle(reply)
                answered.set()

        running = asyncio.create_task(super().run(handle_once))
        await answered.wait()
        running.cancel()


class CountedLedger:
    """A ledger, and the metrics of its client."""

    def __init__(self, harness: LedgerHarness, connection: LedgerConnection) -> None:
        self.harness = harness
        self.connection = connection
        self._registry = CollectorRegistry()
        self._metrics = LedgerMetrics(self._registry)
        connection.observer = self._metrics

    async def admit(self) -> None:
        await self.connection.resources.ledger.admit(self.harness.admission())

    def value(self, name: str, **labels: str) -> float:
        """Count what has happened, and return a sample."""
        self._metrics.count(self.connection.resources.ledger)
        value = self._registry.get_sample_value(name, labels)
        assert value is not None
        return value


@pytest.fixture
def timeout_seconds() -> float:
    """How long anybody waits for the ledger."""
    return TEST_TIMEOUT_SECONDS


@pytest.fixture
def harness(tmp_path: Path, timeout_seconds: float) -> Iterator[LedgerHarness]:
    database = Database(create_sqlite_database(tmp_path / "accounts.db"), busy_seconds=timeout_seconds / 10)
    with contextlib.closing(database), LedgerHarness(database) as harness:
        yield harness


@pytest.fixture
def transport() -> type[LedgerTransport]:
    """Where the ledger works."""
    return LedgerThread


@pytest.fixture
async def ledger(
    harness: LedgerHarness, tmp_path: Path, transport: type[LedgerTransport], timeout_seconds: float
) -> AsyncIterator[CountedLedger]:
    options = AccountsOptions(
        database=harness.database, journals=tmp_path / "journals", timeout_seconds=timeout_seconds, transport=transport
    )
    counted = CountedLedger(harness, LedgerConnection(options, harness.process_id))
    async with counted.connection.opened():
        yield counted


async def test_each_transaction_is_counted_with_the_time_of_its_longest_wait(ledger: CountedLedger) -> None:
    before = ledger.connection.state().answered_at
    for _ in range(3):
        await ledger.admit()
    assert ledger.value("dragoman_ledger_answer_seconds_count") == 3
    assert 0 < ledger.value("dragoman_ledger_answer_seconds_sum") < 3 * TEST_TIMEOUT_SECONDS
    assert ledger.value("dragoman_ledger_failures_total", reason="database") == 0
    state = ledger.connection.state()
    assert before is not None
    assert state.answered_at is not None
    assert state.answered_at > before
    assert (state.is_available, state.waiting) == (True, 0)


@pytest.mark.parametrize("timeout_seconds", [0.5])
async def test_an_outage_is_seen_and_its_failed_transactions_are_counted(ledger: CountedLedger) -> None:
    with locked_file(ledger.harness.database.url):
        with pytest.raises(LedgerUnavailable):
            await ledger.admit()
        assert not ledger.connection.state().is_available
        assert ledger.connection.state().waiting
    assert ledger.value("dragoman_ledger_failures_total", reason="database") > 0


@pytest.mark.parametrize("transport", [EndingThread])
async def test_the_end_of_the_ledgers_process_is_counted(ledger: CountedLedger) -> None:
    await ledger.admit()
    await ledger.admit()
    assert ledger.value("dragoman_ledger_failures_total", reason="process") >= 1


def test_a_ledger_that_is_not_open_is_not_available(harness: LedgerHarness, tmp_path: Path) -> None:
    options = AccountsOptions(database=harness.database, journals=tmp_path / "journals")
    connection = LedgerConnection(options, harness.process_id)
    assert not connection.state().is_available
    assert connection.folders == {"journals": tmp_path / "journals", "database": tmp_path}
