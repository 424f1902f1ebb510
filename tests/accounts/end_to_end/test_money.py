"""From HTTP to the account and back: `deposits = balance + holds + charges`, whatever clients and engines do."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest

from dragoman.accounts.administration.keys import KeyRules
from dragoman.accounts.database.connections import Database
from dragoman.core.errors import BadRequest, EngineFailed
from dragoman.core.events import Delta, Event, Finished, Usage
from dragoman.core.request import GenerationRequest, TextPrompt
from dragoman.engines.echo import EchoEngine
from tests.support.apps import client_of
from tests.support.dialects.asgi_connections import DisconnectingClient
from tests.support.ledger_harness import CACHED_PRICE
from tests.support.metered import AMPLE_BALANCE, AccountFixture, cost, metered_app

PATH = "/v1/completions"
PROMPT = "ab"


class FailingEngine(EchoEngine):
    """Generates `tokens` tokens and then fails, hangs or finishes as the prompt says."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self._tokens = tokens

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        assert isinstance(request.prompt, TextPrompt)
        for _ in range(self._tokens):
            yield Delta(0, "x", [1])
        match request.prompt.text:
            case "die":
                raise EngineFailed("The engine died")
            case "refuse":
                raise BadRequest("The prompt cannot be read", "prompt")
            case "defect":
                raise ZeroDivisionError
            case "hang":
                await asyncio.Event().wait()
            case "share":
                yield Finished(0, "stop")
                yield Usage(len("share"), self._tokens, cached_tokens=3)


@pytest.fixture
def account_fixture(database: Database) -> AccountFixture:
    return AccountFixture(database)


def body(prompt: object = PROMPT, **fields: object) -> dict[str, object]:
    return {"model": "echo", "prompt": prompt, "max_tokens": 4, "ignore_eos": True, **fields}


async def ask(client: httpx.AsyncClient, key: str, prompt: object = PROMPT, **fields: object) -> httpx.Response:
    return await client.post(PATH, json=body(prompt, **fields), headers={"authorization": f"Bearer {key}"})


async def test_an_answer_is_charged_by_its_reported_usage(account_fixture: AccountFixture, tmp_path: Path) -> None:
    key = account_fixture.new_key()
    asked: list[dict[str, object]] = [
        {},
        {"stream": True},
        {"n": 3},
        {"n": 2, "best_of": 3},
        {"prompt": ["ab", "cde"], "n": 2, "stream": True},
        {"max_tokens": None, "ignore_eos": False},
    ]
    async with metered_app(account_fixture, tmp_path) as app, client_of(app) as client:
        for fields in asked:
            include = {"stream_options": {"include_usage": True}} if fields.get("stream") else {}
            response = await ask(client, key, **({"prompt": PROMPT} | fields | include))
            assert response.status_code == 200
    tokens = [(used.prompt_tokens, used.completion_tokens) for used in reversed(account_fixture.usage)]
    assert tokens == [(2, 4), (2, 4), (2, 12), (2, 12), (5, 16), (2, 3)]
    assert [used.charge for used in reversed(account_fixture.usage)] == [cost(*each) for each in tokens]
    assert {used.result for used in account_fixture.usage} == {"finished"}
    account_fixture.assert_settled()


async def test_500_concurrent_first_requests_spend_a_balance_for_10_exactly(database: Database, tmp_path: Path) -> None:
    account_fixture = AccountFixture(database, balance=10 * cost(len(PROMPT), 4))
    key = account_fixture.new_key()
    async with metered_app(account_fixture, tmp_path) as app, client_of(app) as client:
        responses = await asyncio.gather(*(ask(client, key, stream=number % 2 == 0) for number in range(500)))
    statuses = Counter(response.status_code for response in responses)
    assert statuses == {200: 10, 400: 490}
    assert {response.json()["error"]["type"] for response in responses if response.status_code == 400} == {
        "budget_exceeded"
    }
    assert (account_fixture.account.balance, len(account_fixture.usage)) == (0, 10)
    account_fixture.assert_settled()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_disconnects_at_any_chunk_pays_for_the_generated_tokens(
    account_fixture: AccountFixture, tmp_path: Path, stream: bool
) -> None:
    key = account_fixture.new_key()
    text = "a long answer"
    clients = [
        DisconnectingClient(PATH, body(text, max_tokens=len(text), stream=stream), key, disconnect_after=n)
        for n in range(18)
    ]
    async with metered_app(account_fixture, tmp_path) as app:
        for client in clients:
            await client.send_to(app)
    account_fixture.assert_settled()
    by_id = {used.request_id: used for used in account_fixture.usage}
    answered = [(client, by_id[client.request_id]) for client in clients if client.request_id is not None]
    assert len(answered) >= 5
    for client, used in answered:
        assert len(client.text if stream else "") <= used.completion_tokens <= len(text)
        assert used.charge == (cost(len(text), used.completion_tokens) if used.completion_tokens else 0)
        assert used.result == ("finished" if used.completion_tokens == len(text) else "disconnected")


async def test_concurrent_disconnects_at_every_moment_leave_nothing_held(
    account_fixture: AccountFixture, tmp_path: Path
) -> None:
    key = account_fixture.new_key()
    async with metered_app(account_fixture, tmp_path) as app:
        asking = [
            asyncio.create_task(
                DisconnectingClient(PATH, body("abcdefgh", stream=True), key, disconnect_after=n % 12).send_to(app)
            )
            for n in range(200)
        ]
        # Some are also cancelled from outside, as by a server that shuts down.
        for turn, task in enumerate(asking[::4]):
            await asyncio.sleep(0.001 * (turn % 7))
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    account_fixture.assert_settled()
    assert account_fixture.account.charges == sum(used.charge for used in account_fixture.usage)


@pytest.mark.parametrize("tokens", [0, 1, 3])
@pytest.mark.parametrize("prompt", ["die", "refuse", "defect"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_failed_request_pays_for_the_delivered_tokens(
    account_fixture: AccountFixture, tmp_path: Path, tokens: int, prompt: str, stream: bool
) -> None:
    key = account_fixture.new_key()
    async with metered_app(account_fixture, tmp_path, engine=FailingEngine(tokens)) as app, client_of(app) as client:
        response = await ask(client, key, prompt, stream=stream)
    delivered = response.text.count('"text":"x"')
    assert delivered == (tokens if stream else 0)
    [used] = account_fixture.usage
    assert (used.result, used.completion_tokens) == ("failed", delivered)
    assert used.charge == (cost(len(prompt), delivered) if delivered else 0)
    account_fixture.assert_settled()


async def test_a_client_that_disconnects_before_the_first_token_pays_nothing(
    account_fixture: AccountFixture, tmp_path: Path
) -> None:
    client = DisconnectingClient(PATH, body("hang", stream=True), account_fixture.new_key(), disconnect_after=0)
    async with metered_app(account_fixture, tmp_path, engine=FailingEngine(0)) as app:
        await client.send_to(app)
    assert [(used.result, used.charge) for used in account_fixture.usage] in ([], [("disconnected", 0)])
    account_fixture.assert_settled()


async def test_cached_prompt_tokens_have_their_own_price(account_fixture: AccountFixture, tmp_path: Path) -> None:
    async with metered_app(account_fixture, tmp_path, engine=FailingEngine(2)) as app, client_of(app) as client:
        assert (await ask(client, account_fixture.new_key(), "share")).status_code == 200
    assert CACHED_PRICE > 0
    assert account_fixture.account.charges == cost(len("share"), 2, cached=3)
    account_fixture.assert_settled()


async def test_hold_cap_limits_the_hold_and_not_the_charge(account_fixture: AccountFixture, tmp_path: Path) -> None:
    key = account_fixture.new_key(KeyRules(budget=cost(2, 4) + cost(2, 1)))
    async with metered_app(account_fixture, tmp_path, hold_cap=1) as app, client_of(app) as client:
        assert (await ask(client, key)).status_code == 200
        assert (await ask(client, key)).status_code == 200
        assert (await ask(client, key)).status_code == 400
    assert account_fixture.account.charges == 2 * cost(2, 4)
    assert account_fixture.account.balance == AMPLE_BALANCE - account_fixture.account.charges
    account_fixture.assert_settled()


async def test_an_exhausted_account_is_refused_before_the_body_is_validated(database: Database, tmp_path: Path) -> None:
    account_fixture = AccountFixture(database, balance=cost(2, 4))
    key = account_fixture.new_key()
    async with metered_app(account_fixture, tmp_path) as app, client_of(app) as client:
        wrong = {"max_tokens": "many"}
        assert (await ask(client, key, **wrong)).json()["error"]["type"] == "bad_request_error"
        assert (await ask(client, key)).status_code == 200
        assert (await ask(client, key, **wrong)).json()["error"]["type"] == "budget_exceeded"
        used_up = (await ask(client, key)).json()["error"]["message"]
    assert used_up == "Budget has been exceeded! Current cost: 0.00000028, Max budget: 0.00000014"
    account_fixture.assert_settled()


async def test_one_concurrent_request_means_one(account_fixture: AccountFixture, tmp_path: Path) -> None:
    key = account_fixture.new_key(KeyRules(concurrent_requests=1))
    async with metered_app(account_fixture, tmp_path) as app, client_of(app) as client:
        responses = await asyncio.gather(*(ask(client, key) for _ in range(20)))
        refused = [response for response in responses if response.status_code != 200]
        assert {response.json()["error"]["message"] for response in refused} == {
            "Max parallel request limit reached. Limit: 1"
        }
        assert len(refused) < 20
        # One after the other: a slot is free as soon as the answer has been read.
        assert [(await ask(client, key)).status_code for _ in range(20)] == [200] * 20
    account_fixture.assert_settled()
