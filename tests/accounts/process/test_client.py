import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dragoman.accounts.administration.accounts import deposit
from dragoman.accounts.administration.consistency import find_discrepancies
from dragoman.accounts.administration.keys import KeyRules
from dragoman.accounts.administration.usage import UsageRecord, list_usage
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.ledger.operations import (
    Admitted,
    KeyLookup,
    LedgerOperation,
    NeverAdmitted,
    Settled,
    Settlement,
)
from dragoman.accounts.process.client import LedgerClient
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.accounts.process.messages import DatabaseFailed
from dragoman.accounts.process.transport import LedgerTransport
from dragoman.core.errors import BalanceTooLow, LedgerUnavailable
from tests.support.captured_logs import capture_logs
from tests.support.ledger_harness import LedgerHarness, settlement
from tests.support.postgresql import PostgresServer, alter_system, new_database, running_postgresql
from tests.support.server import LEDGER_PROCESS, children_of
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

CLIENTS, REQUESTS = 20, 20


@pytest.fixture
async def ledger(harness: LedgerHarness, transport: type[LedgerTransport]) -> AsyncIterator[LedgerClient]:
    async with LedgerClient(harness.database, new_process_id(), transport=transport) as ledger:
        yield ledger


def _settlement(admitted: Admitted) -> Settlement:
    return settlement(admitted.request_id, 10, completion=5)


async def test_requests_in_one_batch_get_their_own_outcomes(harness: LedgerHarness, ledger: LedgerClient) -> None:
    admissions = [harness.admission(prompt=prompt, max_completion=0) for prompt in (1, 200_000, 2, 3)]
    outcomes = await asyncio.gather(*map(ledger.admit, admissions), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Admitted, BalanceTooLow, Admitted, Admitted]
    admitted = [outcome for outcome in outcomes if isinstance(outcome, Admitted)]
    assert [each.request_id for each in admitted] == [admissions[number].request_id for number in (0, 2, 3)]
    settled = await asyncio.gather(*(ledger.settle(_settlement(each)) for each in admitted))
    assert [each.request_id for each in settled] == [each.request_id for each in admitted]
    assert (await ledger.look_up_key(KeyLookup(harness.digest, "arcee"))).key_id == harness.key_id
    harness.assert_consistent()


@pytest.mark.parametrize("tokens", [-1, 2**53, 10**30])
async def test_a_settlement_that_is_none_is_refused_and_affects_no_others(
    harness: LedgerHarness, ledger: LedgerClient, tokens: int
) -> None:
    admitted = await ledger.admit(harness.admission())
    refused = ledger.settle(settlement(admitted.request_id, 10, completion=tokens))
    other, settled = harness.admission(), ledger.settle(_settlement(admitted))
    assert (await ledger.admit(other)).request_id == other.request_id
    assert (await settled).request_id == admitted.request_id
    with pytest.raises(ValueError, match="are not the prompt, cached and completion tokens"):
        await refused


async def test_a_settlement_completes_when_its_future_is_cancelled(
    harness: LedgerHarness, ledger: LedgerClient
) -> None:
    admitted = await ledger.admit(harness.admission())
    ledger.settle(_settlement(admitted)).cancel()
    assert (await ledger.settle(_settlement(admitted))).repeated
    with pytest.raises(NeverAdmitted):
        await ledger.settle(settlement("unknown"))


async def test_cancelling_an_admission_holds_nothing(harness: LedgerHarness, transport: type[LedgerTransport]) -> None:
    async with LedgerClient(harness.database, new_process_id(), transport=transport) as ledger:
        admissions = [asyncio.create_task(ledger.admit(harness.admission())) for _ in range(20)]
        await asyncio.sleep(0)
        for task in admissions[:15]:
            task.cancel()
        await asyncio.gather(*admissions, return_exceptions=True)
    assert harness.key.running == 5
    harness.assert_consistent()


async def test_cancelling_between_an_admission_and_its_delivery_holds_nothing(
    harness: LedgerHarness, transport: type[LedgerTransport]
) -> None:
    async with LedgerClient(harness.database, new_process_id(), transport=transport) as ledger:

        async def admit_and_cancel_the_other() -> None:
            await ledger.admit(harness.admission())
            other.cancel()  # It was admitted in the same transaction and has not been resumed yet.

        first = asyncio.create_task(admit_and_cancel_the_other())
        other = asyncio.create_task(ledger.admit(harness.admission()))
        await asyncio.wait([first, other])
        assert other.cancelled()
    assert harness.key.running == 1
    harness.assert_consistent()


async def test_closing_finishes_pending_operations_and_refuses_new_ones(
    harness: LedgerHarness, transport: type[LedgerTransport]
) -> None:
    async with LedgerClient(harness.database, new_process_id(), transport=transport) as ledger:
        admitted = await ledger.admit(harness.admission())
        settled = ledger.settle(_settlement(admitted))
    assert isinstance(settled.result(), Settled)
    with pytest.raises(LedgerUnavailable):
        await ledger.admit(harness.admission())


async def test_operations_beyond_max_waiting_are_refused_immediately(
    harness: LedgerHarness, transport: type[LedgerTransport]
) -> None:
    async with LedgerClient(harness.database, new_process_id(), max_waiting=3, transport=transport) as ledger:
        admissions = [asyncio.create_task(ledger.admit(harness.admission())) for _ in range(3)]
        await asyncio.sleep(0)  # The tasks enqueue their admissions.
        for _ in range(2):
            with pytest.raises(LedgerUnavailable):
                await ledger.admit(harness.admission())
        assert [type(admitted) for admitted in await asyncio.gather(*admissions)] == [Admitted] * 3


async def test_a_locked_database_is_waited_for_until_the_timeout(
    tmp_path: Path, transport: type[LedgerTransport]
) -> None:
    database = Database(f"sqlite:///{tmp_path}/accounts.db", busy_seconds=0.01)
    upgrade(database)
    with LedgerHarness(database) as harness:
        async with LedgerClient(database, new_process_id(), timeout_seconds=1, transport=transport) as ledger:
            with database.write():
                with pytest.raises(LedgerUnavailable) as refusal:
                    await ledger.admit(harness.admission())
                waiting = ledger.settle(settlement("unknown"))
            assert refusal.value.retry_after >= 1
            with pytest.raises(NeverAdmitted):
                await waiting
            await ledger.admit(harness.admission())
        assert harness.key.running == 1
        harness.assert_consistent()
    database.close()


async def test_closing_while_the_database_is_locked_fails_pending_settlements(
    tmp_path: Path, transport: type[LedgerTransport]
) -> None:
    database = Database(f"sqlite:///{tmp_path}/accounts.db", busy_seconds=0.01)
    upgrade(database)
    with LedgerHarness(database), database.write():
        async with LedgerClient(database, new_process_id(), timeout_seconds=0.1, transport=transport) as ledger:
            settled = ledger.settle(settlement("request"))
        with pytest.raises(LedgerUnavailable):
            settled.result()
    database.close()


async def test_an_unexpected_error_is_raised_to_its_callers_and_affects_no_others(
    harness: LedgerHarness, ledger: LedgerClient
) -> None:
    broken = harness.admission()
    with harness.database.write() as connection:
        connection.exec_driver_sql("UPDATE keys SET models = 'changed by hand'")
    harness.use_new_key(KeyRules())
    with pytest.raises(msgspec.DecodeError):
        await ledger.admit(broken)
    await ledger.admit(harness.admission())
    harness.assert_consistent()


async def test_a_ledger_process_killed_under_load_loses_nothing_and_charges_nothing_twice(
    harness: LedgerHarness,
) -> None:
    deposit(harness.database, harness.account_id, 10**9)
    async with LedgerClient(harness.database, harness.process_id, timeout_seconds=30) as ledger:
        for _ in range(3):
            clients = [asyncio.create_task(_run_requests(harness, ledger)) for _ in range(CLIENTS)]
            await clients[0]  # The others are still running.
            (process,) = children_of(os.getpid(), LEDGER_PROCESS)
            os.kill(process, signal.SIGKILL)
            await asyncio.gather(*clients)
    assert children_of(os.getpid(), LEDGER_PROCESS) == []
    assert harness.key.running == 0
    finished = find_finished(harness.database)
    assert len(finished) == 3 * CLIENTS * REQUESTS
    assert harness.account.charges == sum(used.charge for used in finished)
    harness.assert_consistent()


class SilentLedger(LedgerThread):
    """Receives operations and never answers."""

    def commit(self, operations: Sequence[LedgerOperation], *, is_retry: bool) -> None:
        pass


async def test_a_ledger_that_never_answers_is_waited_for_until_the_deadline_and_no_longer(
    harness: LedgerHarness,
) -> None:
    async with (
        LedgerClient(harness.database, new_process_id(), timeout_seconds=0.1, transport=SilentLedger) as ledger,
        asyncio.timeout(TEST_TIMEOUT_SECONDS),
    ):
        waiting = [asyncio.create_task(ledger.admit(harness.admission())) for _ in range(3)]
        await asyncio.sleep(0)
        lookup = ledger.look_up_key(KeyLookup(harness.digest, "arcee"))
        outcomes = await asyncio.gather(*waiting, lookup, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [LedgerUnavailable] * 4


async def test_on_sqlite_no_operation_that_is_paid_for_lingers(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/accounts.db")
    upgrade(database)
    sent: list[LedgerOperation] = []

    class RecordingLedger(LedgerThread):
        def commit(self, operations: Sequence[LedgerOperation], *, is_retry: bool) -> None:
            sent.extend(operations)
            super().commit(operations, is_retry=is_retry)

    with LedgerHarness(database) as harness:
        async with LedgerClient(database, new_process_id(), transport=RecordingLedger) as ledger:
            lookup = KeyLookup(harness.digest, None)
            looked_up = ledger.look_up_key(lookup)
            assert sent == [lookup]  # At once.
            await looked_up
            admitted = await ledger.admit(harness.admission())
            settled = ledger.settle(_settlement(admitted))
            assert len(sent) == 2
            for _ in range(2):  # At the end of the next turn of the event loop at the latest, with what that brings.
                await asyncio.sleep(0)
            assert sent[2:] == [_settlement(admitted)]
            await settled
        harness.assert_consistent()
    database.close()


async def test_every_admission_during_an_outage_is_tried_before_its_deadline(harness: LedgerHarness) -> None:
    tried: set[str] = set()

    class FailingLedger(LedgerThread):
        def commit(self, operations: Sequence[LedgerOperation], *, is_retry: bool) -> None:
            tried.update(operation.request_id for operation in operations if not isinstance(operation, KeyLookup))
            self._send(DatabaseFailed("it is locked"))

    async with LedgerClient(harness.database, new_process_id(), timeout_seconds=0.2, transport=FailingLedger) as ledger:
        ledger.settle(Settlement.uncharged("unknown", "disconnected"))  # Retried until the client is closed.
        admissions = [harness.admission() for _ in range(5)]
        for admission in admissions:  # One after another, while the pauses between attempts become longer.
            with pytest.raises(LedgerUnavailable):
                await ledger.admit(admission)
    assert tried.issuperset(admission.request_id for admission in admissions)


async def test_a_hold_that_is_made_after_its_deadline_is_released(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/accounts.db", busy_seconds=60)
    upgrade(database)
    with LedgerHarness(database) as harness:
        async with LedgerClient(database, new_process_id(), timeout_seconds=0.1, transport=LedgerThread) as ledger:
            with database.write(), pytest.raises(LedgerUnavailable):
                await ledger.admit(harness.admission())
            while not list_usage(database, limit=1):
                await asyncio.to_thread(os.sched_yield)
        assert harness.key.running == 0
        harness.assert_consistent()
    database.close()


async def test_a_hold_whose_commit_takes_until_after_its_deadline_is_released(postgresql: PostgresServer) -> None:
    """PostgreSQL waits for a stand-by, or for its disk, for longer than anybody waits for its answer."""
    url = new_database(postgresql)
    database = Database(url, busy_seconds=0.2)
    upgrade(database)
    with LedgerHarness(database) as harness, capture_logs() as logs:
        await asyncio.to_thread(harness.run_requests, 1)  # Statements are prepared, sums are made.
        async with LedgerClient(database, harness.process_id, timeout_seconds=1, transport=LedgerThread) as ledger:
            await asyncio.to_thread(alter_system, url, "SET synchronous_standby_names = 'nobody'")
            try:
                with pytest.raises(LedgerUnavailable):
                    await ledger.admit(harness.admission())
                while ledger.pending_count and all(log["event"] != "accounts_locked" for log in logs):
                    await asyncio.to_thread(os.sched_yield)
            finally:
                await asyncio.to_thread(alter_system, url, "RESET synchronous_standby_names")
            while ledger.pending_count or await asyncio.to_thread(_is_committing, database):
                await asyncio.to_thread(os.sched_yield)
        assert harness.key.running == 0
        harness.assert_consistent()
    database.close()


def _is_committing(database: Database) -> bool:
    with database.read() as connection:
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        return bool(connection.exec_driver_sql(waiting).scalar_one())


async def test_a_ledger_process_that_hangs_is_replaced_and_its_operations_are_answered(harness: LedgerHarness) -> None:
    # A process, because only a process can be stopped.
    async with LedgerClient(
        harness.database, harness.process_id, timeout_seconds=60, heartbeat_timeout_seconds=1
    ) as ledger:
        await ledger.admit(harness.admission())
        (process,) = children_of(os.getpid(), LEDGER_PROCESS)
        os.kill(process, signal.SIGSTOP)
        await ledger.admit(harness.admission())
        assert process not in children_of(os.getpid(), LEDGER_PROCESS)
    assert harness.key.running == 2
    harness.assert_consistent()


async def test_postgresql_restarted_under_load_loses_nothing(transport: type[LedgerTransport]) -> None:
    with running_postgresql() as server:
        database = Database(new_database(server))
        upgrade(database)
        with LedgerHarness(database, balance=10**9) as harness:
            async with LedgerClient(database, harness.process_id, timeout_seconds=10, transport=transport) as ledger:
                for signal_number in (signal.SIGQUIT, signal.SIGINT):  # A crash and a normal shutdown.
                    clients = [asyncio.create_task(_run_requests(harness, ledger)) for _ in range(CLIENTS)]
                    await clients[0]  # The others are still running.
                    restart = asyncio.to_thread(_restart, server, signal_number)
                    await asyncio.gather(restart, *(_run_requests(harness, ledger) for _ in range(CLIENTS)), *clients)
            assert harness.key.running == 0
            assert harness.account.charges == sum(used.charge for used in list_usage(database, limit=10_000))
            assert len(find_finished(database)) == 4 * CLIENTS * REQUESTS
            assert find_discrepancies(database) == []
        database.close()


def find_finished(database: Database) -> list[UsageRecord]:
    return [used for used in list_usage(database, limit=10_000) if used.result == "finished"]


async def _run_requests(harness: LedgerHarness, ledger: LedgerClient) -> None:
    """Admit and settle requests one after the other, with retries while the ledger is unavailable."""
    done = 0
    while done < REQUESTS:
        try:
            admitted = await ledger.admit(harness.admission())
        except LedgerUnavailable:
            continue
        await ledger.settle(_settlement(admitted))
        done += 1


def _restart(server: PostgresServer, signal_number: signal.Signals) -> None:
    postmaster: Any = server.get_postmaster_info().process
    postmaster.send_signal(signal_number)
    postmaster.wait(30)
    server.ensure_postgres_running()
