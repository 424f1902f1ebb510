"""One account's rows that another transaction keeps locked, as an operator's `SELECT … FOR UPDATE` does."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from dragoman.accounts.administration.accounts import create_account, deposit
from dragoman.accounts.administration.keys import create_key
from dragoman.accounts.administration.usage import list_usage
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.ledger.operations import KeyLookup
from dragoman.accounts.process.client import LedgerClient
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.accounts.process.transport import LedgerTransport
from dragoman.core.context import key_digest
from dragoman.core.errors import LedgerUnavailable
from tests.support.captured_logs import capture_logs
from tests.support.ledger_harness import LedgerHarness, settlement
from tests.support.postgresql import PostgresServer, new_database
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


@pytest.fixture
def tenant(postgresql: PostgresServer) -> Iterator[LedgerHarness]:
    """An account whose rows are locked by tests. Others' locks are waited for half a second."""
    database = Database(new_database(postgresql), busy_seconds=0.5)
    upgrade(database)
    with LedgerHarness(database) as harness:
        yield harness
    database.close()


@pytest.fixture
def operator(tenant: LedgerHarness) -> Iterator[psycopg.Connection[Any]]:
    """Somebody else's connection, with a transaction that stays open."""
    with psycopg.connect(tenant.database.url) as connection:
        yield connection


def _digest_of_another(tenant: LedgerHarness) -> str:
    """Return the digest of a key of another account."""
    other = create_account(tenant.database, "other").id
    deposit(tenant.database, other, 1_000_000)
    return key_digest(create_key(tenant.database, other).secret)


def _lock(operator: psycopg.Connection[Any], tenant: LedgerHarness, table: str) -> None:
    column = "id" if table == "accounts" else "account_id"
    operator.execute(f"SELECT FROM {table} WHERE {column} = {tenant.account_id} FOR UPDATE".encode())


@pytest.mark.parametrize("table", ["accounts", "keys", "holds"])
async def test_requests_of_others_do_not_wait_for_it(
    tenant: LedgerHarness, operator: psycopg.Connection[Any], transport: type[LedgerTransport], table: str
) -> None:
    other = _digest_of_another(tenant)
    async with LedgerClient(
        tenant.database, new_process_id(), timeout_seconds=TEST_TIMEOUT_SECONDS, transport=transport
    ) as ledger:
        running = await ledger.admit(tenant.admission())
        _lock(operator, tenant, table)
        settling = ledger.settle(settlement(running.request_id), is_paid=False)
        for _ in range(5):
            admissions = [tenant.admission(key_digest=other) for _ in range(3)]
            admitted = await asyncio.gather(*map(ledger.admit, admissions))
            await asyncio.gather(*(ledger.settle(settlement(each.request_id)) for each in admitted))
            await ledger.look_up_key(KeyLookup(other, "arcee"))
        assert not settling.done()
        operator.commit()
        assert (await settling).charge > 0
        await ledger.admit(tenant.admission())
    tenant.assert_consistent()


async def test_a_request_that_may_select_it_waits_and_others_do_not(
    tenant: LedgerHarness, operator: psycopg.Connection[Any]
) -> None:
    second = create_account(tenant.database, "second").id
    deposit(tenant.database, second, 1_000_000)
    key = create_key(tenant.database, second, other_accounts=[tenant.account_id])
    selecting, other = key_digest(key.secret), key_digest(create_key(tenant.database, second).secret)
    async with LedgerClient(tenant.database, new_process_id(), transport=LedgerThread) as ledger:
        _lock(operator, tenant, "accounts")
        waiting = asyncio.ensure_future(ledger.admit(tenant.admission(key_digest=selecting, account="second")))
        await ledger.admit(tenant.admission(key_digest=other))
        assert not waiting.done()
        operator.commit()
        assert (await waiting).account_id == second


async def test_its_own_requests_are_refused_at_their_deadline_and_hold_nothing(
    tenant: LedgerHarness, operator: psycopg.Connection[Any]
) -> None:
    with capture_logs() as logs:
        async with LedgerClient(tenant.database, new_process_id(), timeout_seconds=2, transport=LedgerThread) as ledger:
            _lock(operator, tenant, "keys")
            with pytest.raises(LedgerUnavailable):
                await ledger.admit(tenant.admission())
            operator.commit()
            while ledger.pending_count:
                await asyncio.to_thread(os.sched_yield)
    assert next(log for log in logs if log["event"] == "accounts_locked")["accounts"] == [tenant.account_id]
    assert tenant.key.running == 0
    assert list_usage(tenant.database, limit=1) == []
    tenant.assert_consistent()


async def test_closing_does_not_wait_for_it(tenant: LedgerHarness, operator: psycopg.Connection[Any]) -> None:
    async with LedgerClient(tenant.database, new_process_id(), timeout_seconds=2, transport=LedgerThread) as ledger:
        running = await ledger.admit(tenant.admission())
        _lock(operator, tenant, "holds")
        settling = ledger.settle(settlement(running.request_id))
    with pytest.raises(LedgerUnavailable):
        await settling
