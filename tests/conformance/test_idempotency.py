"""Idempotency-Key, asked of every dialect in its own words."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dragoman.core.errors import BadRequest, EngineFailed, ModelLoading
from dragoman.server.app import App
from tests.support.apps import client_of, echo_app
from tests.support.books import books_at, open_till
from tests.support.gated_echo import GatedEcho
from tests.support.speakers import SPEAKERS, Speaker

KEY = {"idempotency-key": "order 1"}


@pytest.fixture(params=SPEAKERS, ids=lambda speaker: speaker.name)
def speaker(request: pytest.FixtureRequest) -> Speaker:
    speaker: Speaker = request.param
    return speaker


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('accounts')}/accounts.db"
    with open_till(url):
        return url


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    return tmp_path / "journals"


@contextlib.asynccontextmanager
async def worker(engine: GatedEcho, url: str, journals: Path, *, largest_answer: int = 10_000) -> AsyncIterator[App]:
    """One worker of a server with accounts."""
    with books_at(url, journals, largest_answer=largest_answer) as books:
        async with books.open():
            yield echo_app(engine=engine, books=books)


async def post(
    client: httpx.AsyncClient, speaker: Speaker, key: str, text: str = "Hello", **options: Any
) -> httpx.Response:
    # Keys are the tests' own: they share the database.
    headers = {"idempotency-key": f"{speaker.name} {key}"}
    return await client.post(speaker.path("echo"), json=speaker.body("echo", text, **options), headers=headers)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_request_with_the_same_key_is_run_once(
    speaker: Speaker, database_url: str, journals: Path, stream: bool
) -> None:
    engine = GatedEcho()
    async with worker(engine, database_url, journals) as app, client_of(app) as client:
        first = await post(client, speaker, f"again {stream}", stream=stream)
        again = await post(client, speaker, f"again {stream}", stream=stream)
    assert engine.runs == 1
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.content == again.content
    assert again.headers.pop("idempotent-replayed") == "true"
    assert dict(again.headers) == dict(first.headers), "its id too: it is the same answer"


async def test_the_same_key_for_another_request_is_a_conflict_that_clients_do_not_try_again(
    speaker: Speaker, database_url: str, journals: Path
) -> None:
    engine = GatedEcho()
    async with worker(engine, database_url, journals) as app, client_of(app) as client:
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
    speaker: Speaker, database_url: str, journals: Path, stream: bool
) -> None:
    engine = GatedEcho()
    engine.gate.clear()
    async with (
        worker(engine, database_url, journals) as app,
        worker(engine, database_url, journals) as other,
        client_of(app) as client,
        client_of(other) as elsewhere,
    ):
        key = f"together {stream}"
        first = asyncio.create_task(post(client, speaker, key, stream=stream))
        await engine.began.wait()
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
    speaker: Speaker, database_url: str, journals: Path, stream: bool
) -> None:
    engine = GatedEcho(EngineFailed("It broke"), BadRequest("These messages are odd"))
    async with worker(engine, database_url, journals) as app, client_of(app) as client:
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
    speaker: Speaker, database_url: str, journals: Path
) -> None:
    engine = GatedEcho(ModelLoading("The model is being loaded", 1))
    async with worker(engine, database_url, journals) as app, client_of(app) as client:
        assert "retry-after" in (await post(client, speaker, "too early")).headers
        assert (await post(client, speaker, "too early")).status_code == 200
    assert engine.runs == 2


async def test_an_answer_too_large_to_be_kept_is_given_once_and_not_paid_twice(
    speaker: Speaker, database_url: str, journals: Path
) -> None:
    engine = GatedEcho()
    async with worker(engine, database_url, journals, largest_answer=50) as app, client_of(app) as client:
        assert (await post(client, speaker, "large")).status_code == 200
        refused = await post(client, speaker, "large")
    assert engine.runs == 1
    assert refused.status_code == 409
    assert "50 bytes" in refused.text


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "é"])
async def test_a_key_is_short_and_printable(speaker: Speaker, database_url: str, journals: Path, key: str) -> None:
    async with worker(GatedEcho(), database_url, journals) as app, client_of(app) as client:
        headers = [(b"idempotency-key", key.encode())]
        body = speaker.body("echo", "Hello")
        refused = await client.post(speaker.path("echo"), json=body, headers=headers)
    assert refused.status_code == speaker.out_of_range_status
    assert "printable ASCII" in refused.text


async def test_keys_of_two_callers_have_nothing_to_do_with_each_other(
    speaker: Speaker, database_url: str, journals: Path
) -> None:
    engine = GatedEcho()
    callers = ["sk-0123456789abcdef", "sk-fedcba9876543210"]
    with books_at(database_url, journals) as books:
        async with books.open(), client_of(echo_app(engine=engine, books=books, keys=callers)) as client:
            for caller in callers * 2:
                client.headers["authorization"] = f"Bearer {caller}"
                assert (await post(client, speaker, "mine")).status_code == 200
            client.headers["authorization"] = "Bearer sk-of-nobody-0123456789"
            assert (await post(client, speaker, "mine")).status_code == 401
    assert engine.runs == 2


async def test_an_account_that_is_selected_makes_another_request(database_url: str, journals: Path) -> None:
    engine = GatedEcho()
    [scale] = [speaker for speaker in SPEAKERS if speaker.name == "scale"]
    async with worker(engine, database_url, journals) as app, client_of(app) as client:
        client.headers["x-selected-account-id"] = "1"
        assert (await post(client, scale, "accounts")).status_code == 200
        client.headers["x-selected-account-id"] = "2"
        assert (await post(client, scale, "accounts")).status_code == 409


async def test_equal_paths_of_two_dialects_are_not_equal_requests(database_url: str, journals: Path) -> None:
    with books_at(database_url, journals) as books:
        async with books.open():
            app = echo_app(books=books, hosts={"a.example": "arcee", "e.example": "empower"})
            body = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}
            statuses = []
            for host in ("a.example", "e.example"):
                async with client_of(app, host) as client:
                    response = await client.post("/api/v1/chat/completions", json=body, headers=KEY)
                    statuses.append(response.status_code)
    assert statuses == [200, 409]
