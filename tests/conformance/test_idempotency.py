"""Idempotency-Key, asked of every dialect in its own words."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dragoman.accounts.balances import create_account, deposit
from dragoman.accounts.keys import KeyRules, create_key, disable_key
from dragoman.core.errors import BadRequest, EngineFailed, ModelLoading
from dragoman.server.app import App
from dragoman.server.settings import DialectName
from tests.support.apps import client_of, echo_app
from tests.support.books import accounting_at
from tests.support.gated_echo import GatedEcho
from tests.support.metered import AccountFixture, sqlite_account
from tests.support.speakers import SPEAKERS, Speaker

KEY = {"idempotency-key": "order 1"}


@pytest.fixture(params=SPEAKERS, ids=lambda speaker: speaker.name)
def speaker(request: pytest.FixtureRequest) -> Speaker:
    speaker: Speaker = request.param
    return speaker


@pytest.fixture(scope="module")
def customer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AccountFixture]:
    with sqlite_account(tmp_path_factory.mktemp("accounts")) as account_fixture:
        yield account_fixture


@pytest.fixture(scope="module")
def secret(account_fixture: AccountFixture) -> str:
    return account_fixture.new_key()


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    return tmp_path / "journals"


@contextlib.asynccontextmanager
async def worker(
    engine: GatedEcho,
    account_fixture: AccountFixture,
    journals: Path,
    *,
    largest_answer: int = 10_000,
    hosts: dict[str, DialectName] | None = None,
) -> AsyncIterator[App]:
    """One worker of a server with accounts; at the end all that was asked of it is settled."""
    with accounting_at(account_fixture.url, journals, max_response_bytes=largest_answer) as books:
        async with books.opened():
            yield echo_app(engine=engine, books=books, hosts=hosts)


async def post(
    client: httpx.AsyncClient, speaker: Speaker, key: str, text: str = "Hello", **options: Any
) -> httpx.Response:
    # Keys are the tests' own: they share the database.
    headers = {"idempotency-key": f"{speaker.name} {key}"}
    return await client.post(speaker.path("echo"), json=speaker.body("echo", text, **options), headers=headers)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_request_with_the_same_key_is_run_once(
    speaker: Speaker, account_fixture: AccountFixture, secret: str, journals: Path, stream: bool
) -> None:
    engine = GatedEcho()
    async with worker(engine, account_fixture, journals) as app, client_of(app, key=secret) as client:
        first = await post(client, speaker, f"again {stream}", stream=stream)
        again = await post(client, speaker, f"again {stream}", stream=stream)
    assert engine.runs == 1
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.content == again.content
    assert again.headers.pop("idempotent-replayed") == "true"
    assert dict(again.headers) == dict(first.headers), "its id too: it is the same answer"


async def test_the_same_key_for_another_request_is_a_conflict_that_clients_do_not_try_again(
    speaker: Speaker, account_fixture: AccountFixture, secret: str, journals: Path
) -> None:
    engine = GatedEcho()
    async with worker(engine, account_fixture, journals) as app, client_of(app, key=secret) as client:
        await post(client, speaker, "other body")
        refused = await post(client, speaker, "other body", "Another text")
        assert (await post(client, speaker, "another key", "Another text")).status_code == 200
    assert engine.runs == 2
    assert refused.status_code == 409
    assert speaker.is_error(refused.json())
    assert "another request" in refused.text
    assert refused.headers["x-should-retry"] == "false"


async def test_without_a_database_the_header_is_refused_and_not_ignored(speaker: Speaker) -> None:
    async with client_of(echo_app()) as client:
        refused = await post(client, speaker, "nowhere to keep it")
    assert refused.status_code == speaker.out_of_range_status
    assert speaker.is_error(refused.json())
    assert "[accounts] database" in refused.text


@pytest.mark.parametrize("stream", [False, True])
async def test_who_comes_while_it_runs_waits_for_its_answer_in_any_worker(
    speaker: Speaker, account_fixture: AccountFixture, secret: str, journals: Path, stream: bool
) -> None:
    engine = GatedEcho()
    engine.gate.clear()
    async with (
        worker(engine, account_fixture, journals) as app,
        worker(engine, account_fixture, journals) as other,
        client_of(app, key=secret) as client,
        client_of(other, key=secret) as elsewhere,
    ):
        key = f"together {stream}"
        first = asyncio.create_task(post(client, speaker, key, stream=stream))
        await engine.generation_started.wait()
        refused = await post(elsewhere, speaker, key, "Another text", stream=stream)
        waiting = [asyncio.create_task(post(each, speaker, key, stream=stream)) for each in (client, elsewhere)]
        await asyncio.wait(waiting, timeout=0.1)
        engine.gate.set()
        answers = [await each for each in (first, *waiting)]
    assert engine.runs == 1
    assert refused.status_code == 409
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_what_failed_is_run_again_and_what_can_never_succeed_is_not(
    speaker: Speaker, account_fixture: AccountFixture, secret: str, journals: Path, stream: bool
) -> None:
    engine = GatedEcho(EngineFailed("It broke"), BadRequest("These messages are odd"))
    async with worker(engine, account_fixture, journals) as app, client_of(app, key=secret) as client:
        key = f"failing {stream}"
        assert (await post(client, speaker, key, stream=stream)).status_code == (200 if stream else 500)
        refused = await post(client, speaker, key, stream=stream)
        again = await post(client, speaker, key, stream=stream)
    if stream:  # Both had begun when they failed: nothing is final then.
        assert engine.runs == 3
        assert "idempotent-replayed" not in again.headers
    else:
        assert engine.runs == 2
        assert refused.status_code == again.status_code == speaker.out_of_range_status
        assert refused.content == again.content


async def test_who_was_told_to_come_back_may_come_with_the_same_key(
    speaker: Speaker, account_fixture: AccountFixture, secret: str, journals: Path
) -> None:
    engine = GatedEcho(ModelLoading("The model is being loaded", 1))
    async with worker(engine, account_fixture, journals) as app, client_of(app, key=secret) as client:
        assert "retry-after" in (await post(client, speaker, "too early")).headers
        assert (await post(client, speaker, "too early")).status_code == 200
    assert engine.runs == 2


async def test_an_answer_too_large_to_be_kept_is_given_once_and_not_paid_twice(
    speaker: Speaker, account_fixture: AccountFixture, secret: str, journals: Path
) -> None:
    engine = GatedEcho()
    async with (
        worker(engine, account_fixture, journals, largest_answer=50) as app,
        client_of(app, key=secret) as client,
    ):
        assert (await post(client, speaker, "large")).status_code == 200
        refused = await post(client, speaker, "large")
    assert engine.runs == 1
    assert refused.status_code == 409
    assert "50 bytes" in refused.text


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "é"])
async def test_a_key_is_short_and_printable(
    speaker: Speaker, account_fixture: AccountFixture, secret: str, journals: Path, key: str
) -> None:
    async with worker(GatedEcho(), account_fixture, journals) as app, client_of(app, key=secret) as client:
        headers = [(b"idempotency-key", key.encode())]
        body = speaker.body("echo", "Hello")
        refused = await client.post(speaker.path("echo"), json=body, headers=headers)
    assert refused.status_code == speaker.out_of_range_status
    assert "printable ASCII" in refused.text


async def test_keys_of_two_callers_have_nothing_to_do_with_each_other(
    speaker: Speaker, account_fixture: AccountFixture, secret: str, journals: Path
) -> None:
    engine = GatedEcho()
    callers = [secret, account_fixture.new_key()]
    async with worker(engine, account_fixture, journals) as app, client_of(app) as client:
        for caller in callers * 2:
            client.headers["authorization"] = f"Bearer {caller}"
            assert (await post(client, speaker, "mine")).status_code == 200
        client.headers["authorization"] = "Bearer sk-of-nobody-0123456789"
        assert (await post(client, speaker, "mine")).status_code == 401
    assert engine.runs == 2


async def test_an_account_that_is_selected_makes_another_request(
    account_fixture: AccountFixture, journals: Path
) -> None:
    engine = GatedEcho()
    [scale] = [speaker for speaker in SPEAKERS if speaker.name == "scale"]
    other = create_account(account_fixture.database, "other").id
    deposit(account_fixture.database, other, 10**9)
    secret = create_key(account_fixture.database, account_fixture.account_id, other_accounts=(other,)).secret
    async with worker(engine, account_fixture, journals) as app, client_of(app, key=secret) as client:
        client.headers["x-selected-account-id"] = str(account_fixture.account_id)
        assert (await post(client, scale, "accounts")).status_code == 200
        client.headers["x-selected-account-id"] = str(other)
        assert (await post(client, scale, "accounts")).status_code == 409


async def test_equal_paths_of_two_dialects_are_not_equal_requests(
    account_fixture: AccountFixture, secret: str, journals: Path
) -> None:
    hosts: dict[str, DialectName] = {"a.example": "arcee", "e.example": "empower"}
    body = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}
    statuses = []
    async with worker(GatedEcho(), account_fixture, journals, hosts=hosts) as app:
        for host in hosts:
            async with client_of(app, host, key=secret) as client:
                response = await client.post("/api/v1/chat/completions", json=body, headers=KEY)
                statuses.append(response.status_code)
    assert statuses == [200, 409]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_given_again_is_not_admitted_and_costs_nothing(
    speaker: Speaker, account_fixture: AccountFixture, journals: Path, stream: bool
) -> None:
    engine = GatedEcho()
    engine.gate.clear()
    secret = account_fixture.new_key(KeyRules(requests_per_minute=1, concurrent_requests=1))
    before = len(account_fixture.usage)
    async with worker(engine, account_fixture, journals) as app, client_of(app, key=secret) as client:
        running = asyncio.create_task(post(client, speaker, f"paid {stream}", stream=stream))
        await engine.generation_started.wait()
        waiting = asyncio.create_task(post(client, speaker, f"paid {stream}", stream=stream))
        await asyncio.wait([waiting], timeout=0.1)
        engine.gate.set()
        first, again = await running, await waiting
        later = await post(client, speaker, f"paid {stream}", stream=stream)
        assert (await post(client, speaker, f"another {stream}", stream=stream)).status_code in (400, 429)
    assert first.content == again.content == later.content
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    for replayed in (again, later):
        assert not [name for name in replayed.headers if name.startswith("x-ratelimit")], "it tells of another moment"
    assert len(account_fixture.usage) == before + 1
    account_fixture.assert_settled()


async def test_a_key_that_is_revoked_is_not_given_its_answers_again(
    speaker: Speaker, account_fixture: AccountFixture, journals: Path
) -> None:
    secret = account_fixture.new_key()
    async with worker(GatedEcho(), account_fixture, journals) as app, client_of(app, key=secret) as client:
        assert (await post(client, speaker, "before")).status_code == 200
        disable_key(account_fixture.database, account_fixture.keys[-1].id)
        assert (await post(client, speaker, "before")).status_code == 401
