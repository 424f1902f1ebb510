"""Idempotency-Key in every dialect."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dragoman.accounts.administration.accounts import create_account, deposit
from dragoman.accounts.administration.keys import KeyRules, create_key, disable_key
from dragoman.core.errors import BadRequest, EngineFailed, ModelLoading
from dragoman.dialects.registry import DialectName
from dragoman.server.app import App
from tests.support.accounting import accounting_at
from tests.support.apps import client_of, echo_app
from tests.support.dialects.clients import DIALECT_CLIENTS, DialectClient
from tests.support.echo_engines import GatedEcho
from tests.support.metered import AccountFixture, sqlite_account

KEY = {"idempotency-key": "order 1"}


@pytest.fixture(scope="module")
def account_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AccountFixture]:
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
    max_response_bytes: int = 10_000,
    hosts: dict[str, DialectName] | None = None,
) -> AsyncIterator[App]:
    """Run one worker of a server with accounts; in the end all its requests are settled."""
    with accounting_at(account_fixture.url, journals, max_response_bytes=max_response_bytes) as books:
        async with books.opened():
            yield echo_app(engine=engine, accounting=books, hosts=hosts)


async def post(
    client: httpx.AsyncClient, dialect: DialectClient, key: str, text: str = "Hello", **options: Any
) -> httpx.Response:
    # Keys are the tests' own: they share the database.
    headers = {"idempotency-key": f"{dialect.name} {key}"}
    return await client.post(dialect.path("echo"), json=dialect.body("echo", text, **options), headers=headers)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_request_with_the_same_key_is_run_once(
    dialect: DialectClient, account_fixture: AccountFixture, secret: str, journals: Path, stream: bool
) -> None:
    engine = GatedEcho()
    async with worker(engine, account_fixture, journals) as app, client_of(app, key=secret) as client:
        first = await post(client, dialect, f"again {stream}", stream=stream)
        again = await post(client, dialect, f"again {stream}", stream=stream)
    assert engine.runs == 1
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.content == again.content
    assert again.headers.pop("idempotent-replayed") == "true"
    assert dict(again.headers) == dict(first.headers), "its id too: it is the same answer"


async def test_reusing_a_key_for_another_request_is_a_conflict_without_retry(
    dialect: DialectClient, account_fixture: AccountFixture, secret: str, journals: Path
) -> None:
    engine = GatedEcho()
    async with worker(engine, account_fixture, journals) as app, client_of(app, key=secret) as client:
        await post(client, dialect, "other body")
        refused = await post(client, dialect, "other body", "Another text")
        assert (await post(client, dialect, "another key", "Another text")).status_code == 200
    assert engine.runs == 2
    assert refused.status_code == 409
    assert dialect.is_error(refused.json())
    assert "another request" in refused.text
    assert refused.headers["x-should-retry"] == "false"


async def test_without_a_database_the_header_is_rejected_and_not_ignored(dialect: DialectClient) -> None:
    async with client_of(echo_app()) as client:
        refused = await post(client, dialect, "nowhere to keep it")
    assert refused.status_code == dialect.out_of_range_status
    assert dialect.is_error(refused.json())
    assert "[accounts] database" in refused.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_duplicate_of_a_running_request_waits_in_any_worker(
    dialect: DialectClient, account_fixture: AccountFixture, secret: str, journals: Path, stream: bool
) -> None:
    engine = GatedEcho(is_open=False)
    async with (
        worker(engine, account_fixture, journals) as app,
        worker(engine, account_fixture, journals) as other,
        client_of(app, key=secret) as client,
        client_of(other, key=secret) as elsewhere,
    ):
        key = f"together {stream}"
        first = asyncio.create_task(post(client, dialect, key, stream=stream))
        await engine.generation_started.wait()
        refused = await post(elsewhere, dialect, key, "Another text", stream=stream)
        waiting = [asyncio.create_task(post(each, dialect, key, stream=stream)) for each in (client, elsewhere)]
        await asyncio.wait(waiting, timeout=0.1)
        engine.gate.set()
        answers = [await each for each in (first, *waiting)]
    assert engine.runs == 1
    assert refused.status_code == 409
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_failures_are_run_again_but_final_errors_are_replayed(
    dialect: DialectClient, account_fixture: AccountFixture, secret: str, journals: Path, stream: bool
) -> None:
    engine = GatedEcho(EngineFailed("It broke"), BadRequest("These messages are odd"))
    async with worker(engine, account_fixture, journals) as app, client_of(app, key=secret) as client:
        key = f"failing {stream}"
        assert (await post(client, dialect, key, stream=stream)).status_code == (200 if stream else 500)
        refused = await post(client, dialect, key, stream=stream)
        again = await post(client, dialect, key, stream=stream)
    if stream:  # Both streams had begun when they failed, so nothing is final.
        assert engine.runs == 3
        assert "idempotent-replayed" not in again.headers
    else:
        assert engine.runs == 2
        assert refused.status_code == again.status_code == dialect.out_of_range_status
        assert refused.content == again.content


async def test_a_request_asked_to_retry_may_reuse_its_key(
    dialect: DialectClient, account_fixture: AccountFixture, secret: str, journals: Path
) -> None:
    engine = GatedEcho(ModelLoading("The model is being loaded", 1))
    async with worker(engine, account_fixture, journals) as app, client_of(app, key=secret) as client:
        assert "retry-after" in (await post(client, dialect, "too early")).headers
        assert (await post(client, dialect, "too early")).status_code == 200
    assert engine.runs == 2


async def test_a_response_too_large_to_store_is_sent_once_and_charged_once(
    dialect: DialectClient, account_fixture: AccountFixture, secret: str, journals: Path
) -> None:
    engine = GatedEcho()
    async with (
        worker(engine, account_fixture, journals, max_response_bytes=50) as app,
        client_of(app, key=secret) as client,
    ):
        assert (await post(client, dialect, "large")).status_code == 200
        refused = await post(client, dialect, "large")
    assert engine.runs == 1
    assert refused.status_code == 409
    assert "50 bytes" in refused.text


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "é"])
async def test_a_key_is_short_and_printable(
    dialect: DialectClient, account_fixture: AccountFixture, secret: str, journals: Path, key: str
) -> None:
    async with worker(GatedEcho(), account_fixture, journals) as app, client_of(app, key=secret) as client:
        headers = [(b"idempotency-key", key.encode())]
        body = dialect.body("echo", "Hello")
        refused = await client.post(dialect.path("echo"), json=body, headers=headers)
    assert refused.status_code == dialect.out_of_range_status
    assert "printable ASCII" in refused.text


async def test_idempotency_keys_are_scoped_to_the_caller(
    dialect: DialectClient, account_fixture: AccountFixture, secret: str, journals: Path
) -> None:
    engine = GatedEcho()
    callers = [secret, account_fixture.new_key()]
    async with worker(engine, account_fixture, journals) as app, client_of(app) as client:
        for caller in callers * 2:
            client.headers["authorization"] = f"Bearer {caller}"
            assert (await post(client, dialect, "mine")).status_code == 200
        client.headers["authorization"] = "Bearer sk-of-nobody-0123456789"
        assert (await post(client, dialect, "mine")).status_code == 401
    assert engine.runs == 2


async def test_another_selected_account_makes_a_different_request(
    account_fixture: AccountFixture, journals: Path
) -> None:
    engine = GatedEcho()
    [scale] = [dialect for dialect in DIALECT_CLIENTS if dialect.name == "scale"]
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
async def test_a_replayed_response_is_not_admitted_and_costs_nothing(
    dialect: DialectClient, account_fixture: AccountFixture, journals: Path, stream: bool
) -> None:
    engine = GatedEcho(is_open=False)
    secret = account_fixture.new_key(KeyRules(requests_per_minute=1, concurrent_requests=1))
    before = len(account_fixture.usage)
    async with worker(engine, account_fixture, journals) as app, client_of(app, key=secret) as client:
        running = asyncio.create_task(post(client, dialect, f"paid {stream}", stream=stream))
        await engine.generation_started.wait()
        waiting = asyncio.create_task(post(client, dialect, f"paid {stream}", stream=stream))
        await asyncio.wait([waiting], timeout=0.1)
        engine.gate.set()
        first, again = await running, await waiting
        later = await post(client, dialect, f"paid {stream}", stream=stream)
        assert (await post(client, dialect, f"another {stream}", stream=stream)).status_code in (400, 429)
    assert first.content == again.content == later.content
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    for replayed in (again, later):
        assert not [name for name in replayed.headers if name.startswith("x-ratelimit")], "they hold for another moment"
    assert len(account_fixture.usage) == before + 1
    account_fixture.assert_settled()


async def test_a_revoked_key_gets_no_replayed_responses(
    dialect: DialectClient, account_fixture: AccountFixture, journals: Path
) -> None:
    secret = account_fixture.new_key()
    async with worker(GatedEcho(), account_fixture, journals) as app, client_of(app, key=secret) as client:
        assert (await post(client, dialect, "before")).status_code == 200
        disable_key(account_fixture.database, account_fixture.keys[-1].id)
        assert (await post(client, dialect, "before")).status_code == 401
