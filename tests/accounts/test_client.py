import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dragoman.accounts.audit import audit
from dragoman.accounts.balances import deposit
from dragoman.accounts.client import LedgerClient
from dragoman.accounts.database import Database
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.keys import KeyRules
from dragoman.accounts.migrations import upgrade
from dragoman.accounts.operations import Admitted, Inquiry, NeverAdmitted, Settled, Settlement
from dragoman.accounts.refusals import BalanceTooLow, LedgerUnavailable
from dragoman.accounts.transport import LedgerTransport
from dragoman.accounts.usage import Usage, list_usage
from tests.support.accounts import Till
from tests.support.postgresql import PostgresServer, new_database, running_postgresql
from tests.support.server import LEDGER_PROCESS, children_of

CLIENTS, PURCHASES = 20, 20


@pytest.fixture
async def ledger(till: Till, transport: type[LedgerTransport]) -> AsyncIterator[LedgerClient]:
    async with LedgerClient(till.database, new_process_id(), transport=transport) as ledger:
        yield ledger


def _settlement(admitted: Admitted) -> Settlement:
    return Settlement(admitted.request_id, 10, 0, 5, "finished")


async def test_requests_together_are_answered_each_for_itself(till: Till, ledger: LedgerClient) -> None:
    asked = [till.admission(prompt=prompt, most=0) for prompt in (1, 200_000, 2, 3)]
    outcomes = await asyncio.gather(*map(ledger.admit, asked), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Admitted, BalanceTooLow, Admitted, Admitted]
    admitted = [outcome for outcome in outcomes if isinstance(outcome, Admitted)]
    assert [each.request_id for each in admitted] == [asked[number].request_id for number in (0, 2, 3)]
    settled = await asyncio.gather(*(ledger.settle(_settlement(each)) for each in admitted))
    assert [each.request_id for each in settled] == [each.request_id for each in admitted]
    assert (await ledger.inquire(Inquiry(till.digest, "arcee"))).key_id == till.key_id
    till.assert_balanced()


async def test_a_settlement_goes_on_when_nobody_waits_for_it(till: Till, ledger: LedgerClient) -> None:
    admitted = await ledger.admit(till.admission())
    ledger.settle(_settlement(admitted)).cancel()
    assert (await ledger.settle(_settlement(admitted))).repeated
    with pytest.raises(NeverAdmitted):
        await ledger.settle(Settlement("unknown", 1, 0, 1, "finished"))


async def test_a_client_that_leaves_while_it_is_admitted_holds_nothing(
    till: Till, transport: type[LedgerTransport]
) -> None:
    async with LedgerClient(till.database, new_process_id(), transport=transport) as ledger:
        asked = [asyncio.create_task(ledger.admit(till.admission())) for _ in range(20)]
        await asyncio.sleep(0)
        for task in asked[:15]:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    assert till.key.running == 5
    till.assert_balanced()


async def test_a_client_that_leaves_between_its_admission_and_hearing_of_it_holds_nothing(
    till: Till, transport: type[LedgerTransport]
) -> None:
    async with LedgerClient(till.database, new_process_id(), transport=transport) as ledger:

        async def admit_and_cancel_the_other() -> None:
            await ledger.admit(till.admission())
            other.cancel()  # Its admission came in the same transaction; it has not been woken yet.

        first = asyncio.create_task(admit_and_cancel_the_other())
        other = asyncio.create_task(ledger.admit(till.admission()))
        await asyncio.wait([first, other])
        assert other.cancelled()
    assert till.key.running == 1
    till.assert_balanced()


async def test_closing_finishes_what_waits_and_refuses_newcomers(till: Till, transport: type[LedgerTransport]) -> None:
    async with LedgerClient(till.database, new_process_id(), transport=transport) as ledger:
        admitted = await ledger.admit(till.admission())
        settled = ledger.settle(_settlement(admitted))
    assert isinstance(settled.result(), Settled)
    with pytest.raises(LedgerUnavailable):
        await ledger.admit(till.admission())


async def test_too_many_waiting_are_refused_at_once(till: Till, transport: type[LedgerTransport]) -> None:
    async with LedgerClient(till.database, new_process_id(), most_waiting=3, transport=transport) as ledger:
        asked = [asyncio.create_task(ledger.admit(till.admission())) for _ in range(3)]
        await asyncio.sleep(0)  # they ask
        for _ in range(2):
            with pytest.raises(LedgerUnavailable):
                await ledger.admit(till.admission())
        assert [type(admitted) for admitted in await asyncio.gather(*asked)] == [Admitted] * 3


async def test_a_database_that_is_locked_is_waited_for_and_then_given_up(
    tmp_path: Path, transport: type[LedgerTransport]
) -> None:
    database = Database(f"sqlite:///{tmp_path}/accounts.db", busy_seconds=0.01)
    upgrade(database)
    with Till(database) as till:
        async with LedgerClient(database, new_process_id(), patience_seconds=0.1, transport=transport) as ledger:
            with database.write():
                with pytest.raises(LedgerUnavailable) as refusal:
                    await ledger.admit(till.admission())
                waiting = ledger.settle(Settlement("unknown", 1, 0, 1, "finished"))
            assert refusal.value.retry_after >= 1
            with pytest.raises(NeverAdmitted):
                await waiting
            await ledger.admit(till.admission())
        assert till.key.running == 1
        till.assert_balanced()
    database.close()


async def test_a_client_that_is_closed_while_the_database_is_locked_tells_so(
    tmp_path: Path, transport: type[LedgerTransport]
) -> None:
    database = Database(f"sqlite:///{tmp_path}/accounts.db", busy_seconds=0.01)
    upgrade(database)
    with Till(database) as till, database.write():
        async with LedgerClient(database, new_process_id(), patience_seconds=0.1, transport=transport) as ledger:
            settled = ledger.settle(_settlement(Admitted("request", till.account_id, till.key_id, 0, 0)))
        with pytest.raises(LedgerUnavailable):
            settled.result()
    database.close()


async def test_a_defect_is_told_to_those_who_wait_and_stops_nobody_else(till: Till, ledger: LedgerClient) -> None:
    broken = till.admission()
    with till.database.write() as connection:
        connection.exec_driver_sql("UPDATE keys SET models = 'changed by hand'")
    till.use(KeyRules())
    with pytest.raises(msgspec.DecodeError):
        await ledger.admit(broken)
    await ledger.admit(till.admission())
    till.assert_balanced()


async def test_a_ledger_process_killed_under_load_loses_nothing_and_charges_nothing_twice(till: Till) -> None:
    deposit(till.database, till.account_id, 10**9)
    async with LedgerClient(till.database, till.process_id, patience_seconds=30) as ledger:
        for _ in range(3):
            clients = [asyncio.create_task(_buy(till, ledger)) for _ in range(CLIENTS)]
            await clients[0]  # All are in the middle of it.
            (process,) = children_of(os.getpid(), LEDGER_PROCESS)
            os.kill(process, signal.SIGKILL)
            await asyncio.gather(*clients)
    assert children_of(os.getpid(), LEDGER_PROCESS) == []
    assert till.key.running == 0
    finished = find_finished(till.database)
    assert len(finished) == 3 * CLIENTS * PURCHASES
    assert till.account.charges == sum(used.charge for used in finished)
    till.assert_balanced()


async def test_postgresql_restarted_under_load_loses_nothing(transport: type[LedgerTransport]) -> None:
    with running_postgresql() as server:
        database = Database(new_database(server))
        upgrade(database)
        with Till(database, balance=10**9) as till:
            async with LedgerClient(database, till.process_id, patience_seconds=10, transport=transport) as ledger:
                for signal_number in (signal.SIGQUIT, signal.SIGINT):  # A crash, and an orderly end.
                    clients = [asyncio.create_task(_buy(till, ledger)) for _ in range(CLIENTS)]
                    await clients[0]  # All are in the middle of it.
                    restart = asyncio.to_thread(_restart, server, signal_number)
                    await asyncio.gather(restart, *(_buy(till, ledger) for _ in range(CLIENTS)), *clients)
            assert till.key.running == 0
            assert till.account.charges == sum(used.charge for used in list_usage(database, limit=10_000))
            assert len(find_finished(database)) == 4 * CLIENTS * PURCHASES
            assert audit(database) == []
        database.close()


def find_finished(database: Database) -> list[Usage]:
    return [used for used in list_usage(database, limit=10_000) if used.result == "finished"]


async def _buy(till: Till, ledger: LedgerClient) -> None:
    """A client that tries again when it is told to."""
    bought = 0
    while bought < PURCHASES:
        try:
            admitted = await ledger.admit(till.admission())
        except LedgerUnavailable:
            continue
        await ledger.settle(_settlement(admitted))
        bought += 1


def _restart(server: PostgresServer, signal_number: signal.Signals) -> None:
    postmaster: Any = server.get_postmaster_info().process
    postmaster.send_signal(signal_number)
    postmaster.wait(30)
    server.ensure_postgres_running()
