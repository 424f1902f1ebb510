"""Stored responses when the database fails, when callers are cancelled, and when processes die."""

import asyncio
import multiprocessing
import sqlite3
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.core.errors import Overloaded
from dragoman.core.idempotency import Acquired, IdempotentRequest, InProgress, StoredResponse
from dragoman.gateway.execution.stored_responses import DatabaseIdempotencyStore
from dragoman.gateway.ledger_connection import AccountsOptions
from dragoman.server.accounting import AccountingServices
from tests.support.accounting import accounting_at
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

REQUEST = IdempotentRequest("caller", "key", "fingerprint")
RESPONSE = StoredResponse(200, (), b"{}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    database = Database(f"sqlite:///{tmp_path}/accounts.db")
    upgrade(database)
    database.close()
    return tmp_path / "accounts.db"


@pytest.fixture
def accounting(path: Path, tmp_path: Path) -> Iterator[AccountingServices]:
    database = Database(f"sqlite:///{path}", busy_seconds=0.05)
    accounting = AccountingServices(
        AccountsOptions(database=database, journals=tmp_path / "journals", transport=LedgerThread)
    )
    yield accounting
    accounting.close()


def locked(path: Path) -> sqlite3.Connection:
    """Open a connection that keeps all others from writing."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection


async def acquire(store: DatabaseIdempotencyStore) -> Acquired:
    claim = await store.claim(REQUEST)
    assert isinstance(claim, Acquired)
    return claim


async def test_an_unresponsive_database_never_lets_a_request_run_twice(
    accounting: AccountingServices, path: Path
) -> None:
    async with accounting.opened():
        lock = locked(path)
        with pytest.raises(Overloaded) as refused:
            await accounting.idempotency_store.claim(REQUEST)
        assert refused.value.retry_after == 5
        lock.close()
        assert isinstance(await accounting.idempotency_store.claim(REQUEST), Acquired)


async def test_a_report_that_reads_for_long_keeps_no_request_waiting(accounting: AccountingServices) -> None:
    ended = threading.Event()
    async with accounting.opened():
        report = asyncio.create_task(accounting.database_thread.run_slow(ended.wait, TEST_TIMEOUT_SECONDS))
        await asyncio.sleep(0)
        try:
            assert isinstance(await accounting.idempotency_store.claim(REQUEST), Acquired)
        finally:
            ended.set()
            await report


async def test_the_sweep_releases_claims_whose_release_failed(accounting: AccountingServices, path: Path) -> None:
    async with accounting.opened():
        claim = await acquire(accounting.idempotency_store)
        lock = locked(path)
        await accounting.idempotency_store.store(REQUEST, claim, RESPONSE)
        accounting.idempotency_store.release(REQUEST, claim)
        await asyncio.sleep(0)  # Let the release run before the sweep.
        with pytest.raises(Overloaded):
            await accounting.idempotency_store.sweep()
        lock.close()
        assert await accounting.idempotency_store.claim(REQUEST) == InProgress()
        assert await accounting.idempotency_store.sweep() == 1
        held = await acquire(accounting.idempotency_store)
        assert await accounting.idempotency_store.sweep() == 0
        await accounting.idempotency_store.store(REQUEST, held, RESPONSE)
        assert await accounting.idempotency_store.claim(REQUEST) == RESPONSE


async def test_responses_above_the_limit_do_not_wait_for_the_next_sweep(path: Path, tmp_path: Path) -> None:
    options = AccountsOptions(
        database=Database(f"sqlite:///{path}"), journals=tmp_path / "journals", transport=LedgerThread
    )
    accounting = AccountingServices(options, max_stored_response_bytes=0)
    async with accounting.opened():
        store = accounting.idempotency_store
        await store.store(REQUEST, await acquire(store), RESPONSE)
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while isinstance(state := await store.claim(REQUEST), StoredResponse):
                pass  # Each claim waits for the database's thread, as the sweep does.
    assert isinstance(state, Acquired)


async def test_the_claim_of_a_cancelled_caller_is_released(accounting: AccountingServices) -> None:
    async with accounting.opened():
        claiming = asyncio.create_task(accounting.idempotency_store.claim(REQUEST))
        await asyncio.sleep(0)
        claiming.cancel()
        await asyncio.wait([claiming])
        await accounting.idempotency_store.sweep()
        assert isinstance(await accounting.idempotency_store.claim(REQUEST), Acquired)


def _claim_and_wait(path: Path, journals: Path, parent: Connection) -> None:
    async def live() -> None:
        with accounting_at(f"sqlite:///{path}", journals) as accounting:
            async with accounting.opened():
                parent.send(await accounting.idempotency_store.claim(REQUEST))
                await asyncio.Event().wait()

    asyncio.run(live())


async def test_the_claim_of_a_killed_process_is_taken_over_by_the_next_that_starts(
    accounting: AccountingServices, path: Path, tmp_path: Path
) -> None:
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_claim_and_wait, args=(path, tmp_path / "journals", sender))
    process.start()
    assert receiver.poll(TEST_TIMEOUT_SECONDS), "the process has claimed"
    assert isinstance(receiver.recv(), Acquired)
    assert await accounting.idempotency_store.claim(REQUEST) == InProgress()
    process.kill()
    process.join(60)
    async with accounting.opened():
        assert isinstance(await accounting.idempotency_store.claim(REQUEST), Acquired)
