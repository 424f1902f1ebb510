"""A second attempt beside a late one: whichever begins first answers, and the other one leaves nothing behind."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from dragoman.accounts.database.connections import Database
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.core.answered_by import AnsweredBy, FailedAttempt
from dragoman.core.capabilities import ALL_CAPABILITIES
from dragoman.core.context import Caller, new_request_id
from dragoman.core.errors import ReplicaFailed
from dragoman.core.events import Delta, Event, Finished, Started, Usage
from dragoman.core.request import GenerationRequest, SamplingParams, TextPrompt
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.execution.request_execution import generate
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.ledger_connection import AccountsOptions
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.gateway.routing.metrics import RoutingMetrics
from dragoman.gateway.routing.replica import Replica
from dragoman.gateway.routing.router_options import RouterOptions
from dragoman.server.accounting import AccountingServices
from tests.support.metered import AccountFixture, cost
from tests.support.scripted_engine import ScriptedEngine
from tests.support.sqlite_files import create_sqlite_database
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

REQUEST = GenerationRequest(model="echo", prompt=TextPrompt("ab"), sampling=SamplingParams(max_tokens=4))
AT_ONCE, NEVER = 0.0, 3_600.0
LOST = ReplicaFailed("The connection was lost")


def answer(text: str) -> list[Event]:
    return [Started(2, 0), Delta(0, text, [98]), Finished(0, "stop"), Usage(2, 1, 0)]


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until the condition holds."""
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        while not condition():
            await asyncio.to_thread(os.sched_yield)


async def turns() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.to_thread(os.sched_yield)


FIRST, SECOND = answer("first"), answer("second")


class Hedged:
    """A deployment of two replicas, of which the first one is asked first."""

    def __init__(
        self, *engines: ScriptedEngine, hedge_after: float | None = AT_ONCE, concurrency: int = 4, max_attempts: int = 1
    ) -> None:
        self.registry = CollectorRegistry()
        self.engines = engines
        self.reported: list[AnsweredBy] = []
        replicas = tuple(
            Replica(f"echo/{number}", engine, concurrency=concurrency, is_upstream=True)
            for number, engine in enumerate(engines)
        )
        routing = RouterOptions(policy="first", hedge_after=hedge_after)
        self.deployment = Deployment(name="echo", replicas=replicas, routing=routing, max_attempts=max_attempts)
        self.router = self.deployment.require_router()
        self.router.metrics = RoutingMetrics(self.registry)

    async def answer(self) -> list[Event]:
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            return [event async for event in generate(self.deployment, REQUEST, self)]

    def note_wait(self, began_at: float, ended_at: float) -> None:
        """Spans show it."""

    def note_answer(self, answered_by: AnsweredBy) -> None:
        self.reported.append(answered_by._replace(began_at=None))

    def note_start(self, started: Started) -> None:
        """Only reservations count what was cached."""

    def note_failure(self, failure: FailedAttempt) -> None:
        """Attempts that end are counted in the metrics."""

    @property
    def attempts(self) -> list[int]:
        return [engine.attempts for engine in self.engines]

    def assert_idle(self) -> None:
        assert not any(engine.running for engine in self.engines)
        for replica in self.deployment.replicas:
            assert self.router.leases.in_flight(replica.name) == (0, 0)


async def test_a_late_first_token_lets_another_replica_answer_and_cancels_the_first() -> None:
    hedged = Hedged(ScriptedEngine([asyncio.Event()]), ScriptedEngine(SECOND))
    assert await hedged.answer() == SECOND
    assert hedged.attempts == [1, 1]
    assert hedged.reported == [AnsweredBy("echo", "echo/1", 2, True)]
    hedged.assert_idle()
    labels = {"model": "echo", "upstream": "echo/1"}
    assert hedged.registry.get_sample_value("dragoman_upstream_hedges_total", labels) == 1
    labels = {"model": "echo", "upstream": "echo/0", "reason": "cancelled"}
    assert hedged.registry.get_sample_value("dragoman_upstream_attempts_total", labels) == 1


async def test_the_first_one_answers_if_it_begins_after_all_before_the_second() -> None:
    gate = asyncio.Event()
    hedged = Hedged(ScriptedEngine([gate, *FIRST]), ScriptedEngine([asyncio.Event()]))
    task = asyncio.create_task(hedged.answer())
    await until(lambda: bool(hedged.engines[1].running))
    gate.set()
    assert await task == FIRST
    assert [each.replica for each in hedged.reported] == ["echo/0"]
    hedged.assert_idle()


@pytest.mark.parametrize("hedge_after", [None, NEVER])
async def test_nothing_is_hedged_before_its_time(hedge_after: float | None) -> None:
    hedged = Hedged(ScriptedEngine(FIRST), ScriptedEngine(SECOND), hedge_after=hedge_after)
    assert await hedged.answer() == FIRST
    assert hedged.attempts == [1, 0]


async def test_a_failure_of_one_leaves_the_other_and_that_of_both_is_the_firsts() -> None:
    gate = asyncio.Event()
    hedged = Hedged(ScriptedEngine([gate, *FIRST]), ScriptedEngine([LOST]))
    task = asyncio.create_task(hedged.answer())
    await until(lambda: bool(hedged.engines[1].attempts) and not hedged.engines[1].running)
    gate.set()
    assert await task == FIRST

    gates = [asyncio.Event(), asyncio.Event()]
    hedged = Hedged(ScriptedEngine([gates[0], ReplicaFailed("first")]), ScriptedEngine([gates[1], LOST]))
    task = asyncio.create_task(hedged.answer())
    await until(lambda: bool(hedged.engines[1].running))
    for each in reversed(gates):
        each.set()
    with pytest.raises(ReplicaFailed, match="first"):
        await task
    hedged.assert_idle()


async def test_the_second_one_answers_if_the_first_fails() -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    hedged = Hedged(ScriptedEngine([gates[0], LOST]), ScriptedEngine([gates[1], *SECOND]))
    task = asyncio.create_task(hedged.answer())
    await until(lambda: bool(hedged.engines[1].running))
    gates[0].set()
    await until(lambda: not hedged.engines[0].running)
    gates[1].set()
    assert await task == SECOND
    hedged.assert_idle()


async def _unhedged(hedged: Hedged, gate: asyncio.Event, others: int = 0) -> None:
    """Check that only the first replica is asked, although its token is late."""
    task = asyncio.create_task(hedged.answer())
    await turns()
    gate.set()
    assert await task == FIRST
    assert hedged.attempts == [1 + others, 0]


async def test_nothing_is_hedged_under_load_beyond_the_budget_or_at_a_server_that_may_charge() -> None:
    gate = asyncio.Event()
    busy = Hedged(ScriptedEngine([gate, *FIRST]), ScriptedEngine(SECOND), concurrency=4)
    leases = [await busy.router.leases.acquire(lambda: "echo/1", 1) for _ in range(6)]
    await _unhedged(busy, gate)
    for lease in leases:
        lease.release()

    gate = asyncio.Event()
    spent = Hedged(ScriptedEngine([gate, *FIRST]), ScriptedEngine(SECOND))
    while spent.router.budget.try_spend():
        pass
    await _unhedged(spent, gate)

    gate = asyncio.Event()
    charging = ScriptedEngine(SECOND, capabilities=ALL_CAPABILITIES - {"hedging"})
    await _unhedged(Hedged(ScriptedEngine([gate, *FIRST]), charging), gate)

    gate = asyncio.Event()
    alone = Hedged(ScriptedEngine([gate, *FIRST]))
    task = asyncio.create_task(alone.answer())
    await turns()
    gate.set()
    assert await task == FIRST


async def test_a_client_that_leaves_cancels_both() -> None:
    hedged = Hedged(ScriptedEngine([asyncio.Event()]), ScriptedEngine([asyncio.Event()]))
    task = asyncio.create_task(hedged.answer())
    await until(lambda: bool(hedged.engines[1].running))
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    hedged.assert_idle()


async def test_an_answer_of_two_attempts_is_charged_once(tmp_path: Path) -> None:
    database = Database(create_sqlite_database(tmp_path / "accounts.db"))  # Which database it is changes nothing here.
    account_fixture = AccountFixture(database)
    hedged = Hedged(ScriptedEngine([asyncio.Event()]), ScriptedEngine(SECOND))
    options = AccountsOptions(database=database, journals=tmp_path / "journals", transport=LedgerThread)
    accounting = AccountingServices(options)
    async with accounting.opened():
        metrics = RequestMetrics(CollectorRegistry())
        gateway = Gateway(Catalog([hedged.deployment]), metrics, accounting.authenticator, accounting.admission)
        caller = Caller(request_id=new_request_id(), key=account_fixture.new_key())
        async with contextlib.aclosing(await gateway.generate([REQUEST], caller, streamed=True)) as execution:
            assert [event async for event in execution] == SECOND
    account_fixture.assert_settled()
    [used] = account_fixture.usage
    assert used.charge == cost(2, 1)
    database.close()
