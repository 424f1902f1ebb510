"""Whatever is wrong with the database: callers get one error, nothing is lost, and all goes on when it is healed."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from dragoman.accounts.administration.accounts import deposit, list_accounts
from dragoman.accounts.administration.usage import list_usage
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.idempotency_keys import IdempotencyKeyTable
from dragoman.accounts.database.thread import DatabaseThread
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.ledger.operations import KeyLookup
from dragoman.accounts.process.client import LedgerClient
from dragoman.accounts.process.journal import JournalFolder
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.accounts.process.opening import LedgerMaintenance
from dragoman.accounts.process.recovery import Recovery
from dragoman.core.errors import LedgerUnavailable, Overloaded
from dragoman.core.idempotency import IdempotentRequest
from dragoman.jobs.storage.reader import JobReader
from dragoman.jobs.storage.retention import Retention
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.values.rows import Lease
from dragoman.jobs.webhooks.options import DeliveryLimits, RetrySchedule
from dragoman.jobs.webhooks.store import WebhookStore
from tests.support.database_faults import FAULTS, Fault, as_limited_role
from tests.support.ledger_harness import MODEL, LedgerHarness, settlement

BUSY_SECONDS = 0.05

_ATTEMPTS = 3
"""PostgreSQL ends a session that a busy processor keeps silent for a part of so short a time."""


def _name(value: object) -> str:
    return getattr(value, "__name__", str(value))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = [(kind, fault) for kind, faults in FAULTS.items() for fault in faults]
    metafunc.parametrize(("kind", "fault"), cases, ids=_name)


@pytest.fixture
def url(kind: str, database_url: str) -> str:
    return database_url if kind == "sqlite" else as_limited_role(database_url)


@pytest.fixture
def harness(url: str) -> Iterator[LedgerHarness]:
    database = Database(url, busy_seconds=BUSY_SECONDS)
    with LedgerHarness(database) as harness:
        yield harness
    database.close()


@contextlib.contextmanager
def _calls(harness: LedgerHarness, folder: JournalFolder) -> Iterator[dict[str, Callable[[], object]]]:
    """Yield one call for each way in which the program uses the database."""
    database = harness.database
    keys = IdempotencyKeyTable(database, harness.process_id)
    request = IdempotentRequest("caller", "key", "fingerprint")
    reader, store = JobReader(database), JobStore(database, QueueOptions(), harness.process_id)
    webhooks = WebhookStore(database, RetrySchedule(), DeliveryLimits())
    recovery = Recovery(database, folder, harness.process_id)
    yield {
        "admit": lambda: harness.settle(harness.admit().request_id),
        "deposit": lambda: deposit(database, harness.account_id, 1),
        "list accounts": lambda: list_accounts(database),
        "list usage": lambda: list_usage(database),
        "claim a key": lambda: keys.claim(request, 1),
        "store a response": lambda: keys.store(request, 1, None),
        "sweep keys": lambda: keys.sweep(()),
        "find a job": lambda: reader.find("unknown"),
        "pending work": reader.pending_work,
        "queue depths": reader.depths,
        "claim a job": lambda: store.claim([MODEL], 1),
        "renew a lease": lambda: store.renew([Lease(1, 1)]),
        "cancel a job": lambda: store.cancel(1),
        "reap": lambda: store.reap(0),
        "sweep jobs": Retention(database, QueueOptions()).sweep,
        "due webhooks": webhooks.has_due,
        "claim a webhook": lambda: webhooks.claim(1, []),
        "heartbeat": recovery.heartbeat,
        "recover": recovery.recover,
    }
    store.close()
    recovery.close()


async def _refused_calls(
    thread: DatabaseThread, calls: Mapping[str, Callable[[], object]], attempts: int = _ATTEMPTS
) -> dict[str, Callable[[], object]]:
    """Return the calls that are refused as often as they are tried."""
    refused: dict[str, Callable[[], object]] = {}
    for name, call in calls.items():
        for _ in range(attempts):
            with contextlib.suppress(Overloaded):
                await thread.run(call)
                break
        else:
            refused[name] = call
    return refused


async def test_every_call_is_refused_as_overloaded_and_works_afterwards(
    fault: Fault, url: str, harness: LedgerHarness, tmp_path: Path
) -> None:
    folder = JournalFolder(tmp_path / "journals")
    journal = folder.create(harness.process_id)
    thread = DatabaseThread(harness.database, timeout_seconds=30)
    with _calls(harness, folder) as calls:
        assert not await _refused_calls(thread, calls)
        with fault(url):
            failed = await _refused_calls(thread, calls, attempts=1)
        assert {"admit", "deposit"} <= failed.keys()
        # A connection that was opened meanwhile may be as unusable as before, and is discarded when it is found so.
        assert not await _refused_calls(thread, calls)
    harness.assert_consistent()
    thread.close()
    journal.close()


async def test_admissions_are_refused_and_settlements_are_made_afterwards(
    fault: Fault, url: str, harness: LedgerHarness
) -> None:
    async with (
        LedgerClient(harness.database, harness.process_id, transport=LedgerThread) as ledger,
        LedgerClient(harness.database, new_process_id(), timeout_seconds=0.1, transport=LedgerThread) as impatient,
    ):
        admitted = await ledger.admit(harness.admission())
        with fault(url):
            settled = ledger.settle(settlement(admitted.request_id, 10, completion=5))
            with pytest.raises(LedgerUnavailable):
                await impatient.admit(harness.admission())
            assert not settled.done()
        assert (await settled).charge == 10 * 10 + 5 * 30
        await ledger.look_up_key(KeyLookup(harness.digest, "arcee"))
        await ledger.admit(harness.admission())
    assert harness.key.running == 1
    harness.assert_consistent()


async def test_maintenance_goes_on(fault: Fault, url: str, harness: LedgerHarness, tmp_path: Path) -> None:
    folder = JournalFolder(tmp_path / "journals")
    journal, recovery = folder.create(harness.process_id), Recovery(harness.database, folder, harness.process_id)
    recovery.register()
    maintenance = LedgerMaintenance(harness.database, recovery, folder, journal)
    outage = harness.database.outage
    with fault(url):
        outage.fail("a request has noticed it")
        failed_at = outage.failed_at
        await maintenance.run_round()
        assert outage.failed_at > failed_at, "each round tries to write, and keeps the outage from ending"
    await maintenance.run_round()
    recovery.unregister()
    await maintenance.run_round()
    await asyncio.to_thread(recovery.unregister)
    recovery.close()
    journal.close()
