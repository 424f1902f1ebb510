"""A request falls back to another deployment at that one's prices, within one reservation."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from dragoman.accounts.administration.keys import KeyRules
from dragoman.accounts.administration.prices import set_price
from dragoman.accounts.administration.usage import UsageRecord
from dragoman.accounts.database.connections import Database
from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.core.context import Caller, new_request_id
from dragoman.core.errors import BadRequest, ContextOverflow, DragomanError, EngineFailed, Overloaded, ReplicaFailed
from dragoman.core.events import Delta, Event, Finished, Started, Usage
from dragoman.core.request import GenerationRequest, Prompt, SamplingParams, TextPrompt
from dragoman.engines.base import Engine
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.execution.request_execution import RequestExecution
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.ledger_connection import AccountsOptions
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.server.accounting import AccountingServices
from tests.support.metered import AccountFixture, cost
from tests.support.scripted_engine import Script, ScriptedEngine

ANSWER: list[Event] = [Started(2, 0), Delta(0, "b", [98]), Finished(0, "stop"), Usage(2, 1, 0)]
TOO_LONG = ContextOverflow(9_000, 8_192, "Shorten the prompt.")
LOST = ReplicaFailed("The engine stopped")


def deployments(main: Engine, small: Engine, long: Engine) -> list[Deployment]:
    return [
        Deployment(
            name="echo",
            replicas=(Replica("echo/0", main),),
            fallbacks=("small", "long"),
            context_fallbacks=("long",),
            max_attempts=1,
        ),
        Deployment.of("small", (), small),
        Deployment.of("long", (), long),
    ]


@contextlib.asynccontextmanager
async def metered_gateway(
    account_fixture: AccountFixture, folder: Path, entries: Sequence[Deployment]
) -> AsyncGenerator[Gateway]:
    set_price(account_fixture.database, "small", 1, 3)
    set_price(account_fixture.database, "long", 100, 300)
    accounting = AccountingServices(
        AccountsOptions(database=account_fixture.database, journals=folder, transport=LedgerThread)
    )
    async with accounting.opened():
        metrics = RequestMetrics(CollectorRegistry())
        yield Gateway(Catalog(entries), metrics, accounting.authenticator, accounting.admission)


async def execute(gateway: Gateway, key: str, *prompts: str) -> tuple[list[Event], RequestExecution]:
    caller = Caller(request_id=new_request_id(), key=key)
    requests = [
        GenerationRequest(model="echo", prompt=TextPrompt(prompt), sampling=SamplingParams(max_tokens=4))
        for prompt in prompts or ("ab",)
    ]
    async with contextlib.aclosing(await gateway.generate(requests, caller, streamed=True)) as execution:
        return [event async for event in execution], execution


def last_usage(account_fixture: AccountFixture) -> UsageRecord:
    account_fixture.assert_settled()
    return account_fixture.usage[0]


@pytest.mark.parametrize(
    ("script", "model", "charge"),
    [
        (ANSWER, "echo", cost(2, 1)),
        ([LOST], "small", 2 * 1 + 1 * 3),
        ([Overloaded("Too many wait", 1)], "small", 2 * 1 + 1 * 3),
        ([TOO_LONG], "long", 2 * 100 + 1 * 300),
    ],
)
async def test_the_deployment_that_answers_is_the_one_that_is_paid(
    database: Database, tmp_path: Path, script: Script, model: str, charge: int
) -> None:
    account_fixture = AccountFixture(database)
    entries = deployments(ScriptedEngine(script), ScriptedEngine(ANSWER), ScriptedEngine(ANSWER))
    async with metered_gateway(account_fixture, tmp_path / "journals", entries) as gateway:
        events, execution = await execute(gateway, account_fixture.new_key())
    assert events == ANSWER
    used = last_usage(account_fixture)
    assert (used.model, used.charge, used.result) == (model, charge, "finished")
    assert (execution.answered_by is None) == (model == "echo")
    assert len(account_fixture.usage) == 1


async def test_a_fallback_that_fails_too_is_followed_by_the_next(database: Database, tmp_path: Path) -> None:
    account_fixture = AccountFixture(database)
    # An engine that is alone is sent a lost request again.
    entries = deployments(ScriptedEngine([LOST]), ScriptedEngine([LOST], [LOST], [LOST]), ScriptedEngine(ANSWER))
    async with metered_gateway(account_fixture, tmp_path / "journals", entries) as gateway:
        events, _ = await execute(gateway, account_fixture.new_key())
    assert events == ANSWER
    assert last_usage(account_fixture).model == "long"


async def test_a_key_falls_back_only_to_what_it_may_use(database: Database, tmp_path: Path) -> None:
    account_fixture = AccountFixture(database)
    small = ScriptedEngine(ANSWER)
    entries = deployments(ScriptedEngine([LOST], [TOO_LONG], [LOST]), small, ScriptedEngine(ANSWER))
    async with metered_gateway(account_fixture, tmp_path / "journals", entries) as gateway:
        await execute(gateway, account_fixture.new_key(KeyRules(models=("echo", "long"))))
        own = account_fixture.new_key(KeyRules(models=("echo",)))
        for error in (ContextOverflow, ReplicaFailed):
            with pytest.raises(error):
                await execute(gateway, own)
    assert small.attempts == 0
    account_fixture.assert_settled()
    assert [used.model for used in account_fixture.usage] == ["echo", "echo", "long"]
    assert [used.charge for used in account_fixture.usage] == [0, 0, 2 * 100 + 1 * 300]


@pytest.mark.parametrize("error", [EngineFailed("The engine stopped"), BadRequest("The prompt is bad", "prompt")])
async def test_nothing_falls_back_after_the_first_token_or_for_a_bad_request(
    database: Database, tmp_path: Path, error: DragomanError
) -> None:
    account_fixture = AccountFixture(database)
    script: Script = [error] if isinstance(error, BadRequest) else [Delta(0, "b", [98]), error]
    small = ScriptedEngine(ANSWER)
    async with metered_gateway(
        account_fixture, tmp_path / "journals", deployments(ScriptedEngine(script), small, small)
    ) as gateway:
        with pytest.raises(type(error)):
            await execute(gateway, account_fixture.new_key())
    assert small.attempts == 0
    assert last_usage(account_fixture).model == "echo"


class ShortEcho(EchoEngine):
    """Has a context of four tokens."""

    def __init__(self) -> None:
        super().__init__(context_length=4)


async def test_a_prompt_that_is_known_to_be_too_long_is_admitted_to_the_longer_model(
    database: Database, tmp_path: Path
) -> None:
    account_fixture = AccountFixture(database)
    entries = deployments(ShortEcho(), EchoEngine(), EchoEngine())
    async with metered_gateway(account_fixture, tmp_path / "journals", entries) as gateway:
        await execute(gateway, account_fixture.new_key(), "far too long for it")
        with pytest.raises(ContextOverflow):
            await execute(gateway, account_fixture.new_key(KeyRules(models=("echo",))), "far too long for it")
    account_fixture.assert_settled()
    [used] = account_fixture.usage
    assert (used.model, used.charge) == ("long", 19 * 100 + 4 * 300)


class UncountingEngine(EchoEngine):
    """Cannot count tokens, since its server does not answer."""

    async def count_tokens(self, prompt: Prompt) -> int:
        raise LOST


async def test_a_prompt_whose_tokens_nobody_can_count_is_admitted_to_the_fallback(
    database: Database, tmp_path: Path
) -> None:
    account_fixture = AccountFixture(database)
    entries = deployments(UncountingEngine(), ScriptedEngine(ANSWER), ScriptedEngine())
    async with metered_gateway(account_fixture, tmp_path / "journals", entries) as gateway:
        await execute(gateway, account_fixture.new_key())
        with pytest.raises(ReplicaFailed):
            await execute(gateway, account_fixture.new_key(KeyRules(models=("echo",))))
    account_fixture.assert_settled()
    assert [used.model for used in account_fixture.usage] == ["small"]


async def test_all_prompts_of_a_request_fall_back_together(database: Database, tmp_path: Path) -> None:
    account_fixture = AccountFixture(database)
    main = ScriptedEngine([asyncio.Event(), *ANSWER], [LOST])
    entries = deployments(main, ScriptedEngine(ANSWER, ANSWER), ScriptedEngine())
    async with metered_gateway(account_fixture, tmp_path / "journals", entries) as gateway:
        await execute(gateway, account_fixture.new_key(), "ab", "cd")
    used = last_usage(account_fixture)
    assert (used.model, used.charge) == ("small", 4 * 1 + 2 * 3)
    assert main.running == 0
