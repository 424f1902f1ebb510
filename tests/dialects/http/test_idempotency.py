"""What is recorded, what makes two requests the same, and clients that come and go."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Scope

from dragoman.core.errors import BadRequest
from dragoman.core.idempotency import StoredResponse
from dragoman.dialects.http import sse
from dragoman.dialects.http.context import HttpOptions
from dragoman.dialects.http.generation_response import ON_DISCONNECT
from dragoman.dialects.http.idempotency import ResponseRecorder, fingerprint
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.server.app import App, build_app
from tests.support.accounting import accounting_at
from tests.support.dialects.asgi_connections import AsgiConnection
from tests.support.echo_engines import GatedEcho
from tests.support.metered import sqlite_account
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

TICK = 0.01
"""Seconds of silence after which a comment is sent."""

MAX_RESPONSE_BYTES = 1000


def scope_of(secret: str) -> Scope:
    headers = [(b"host", b"localhost"), (b"idempotency-key", b"key"), (b"authorization", f"Bearer {secret}".encode())]
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/completions",
        "headers": headers,
        "query_string": b"",
    }


def body(**fields: object) -> bytes:
    return json.dumps({"model": "echo", "prompt": "ab", **fields}).encode()


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[str]:
    """The key of an account in a new database."""
    with sqlite_account(tmp_path) as account_fixture:
        yield account_fixture.new_key()


@contextlib.asynccontextmanager
async def worker(engine: GatedEcho, folder: Path, *, keep_alive_seconds: float = TICK) -> AsyncIterator[App]:
    with accounting_at(
        f"sqlite:///{folder}/accounts.db", folder / "journals", max_response_bytes=MAX_RESPONSE_BYTES
    ) as books:
        async with books.opened():
            catalog = Catalog([Deployment.of("echo", (), engine)])
            options = HttpOptions(max_body_bytes=10_000, keep_alive_seconds=keep_alive_seconds)
            yield build_app(catalog, options, metrics_directory=None, accounting=books)


def exchange(app: App, client: AsgiConnection, secret: str) -> "asyncio.Task[None]":
    """Send the client's request to the app, by a server that reports disconnects."""
    scope = {**scope_of(secret), ON_DISCONNECT: client.reports.append}
    return asyncio.create_task(app(scope, client.receive, client.send))


def response_body(client: AsgiConnection) -> bytes:
    return b"".join(each for each in client.bodies if each != sse.KEEP_ALIVE)


bodies = st.lists(st.binary(max_size=20).filter(lambda part: part != sse.KEEP_ALIVE), min_size=1, max_size=8)


@given(bodies, st.integers(0, 100))
def test_a_recording_holds_the_response_without_comments_or_is_too_large(parts: list[bytes], largest: int) -> None:
    recorder = ResponseRecorder(largest)
    head: Message = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}
    assert not recorder.add(head)
    for part in (*parts[:-1], sse.KEEP_ALIVE):
        assert not recorder.add({"type": "http.response.body", "body": part, "more_body": True})
    assert recorder.add({"type": "http.response.body", "body": parts[-1]})
    whole = b"".join(parts)
    assert recorder.is_too_large == (len(whole) > largest)
    assert recorder.stored_response() == (None if len(whole) > largest else StoredResponse(200, (("a", "b"),), whole))


requests = st.tuples(st.lists(st.text(alphabet="a/", max_size=3), min_size=2, max_size=2), st.binary(max_size=3))


@given(requests, requests)
def test_only_equal_requests_have_equal_fingerprints(
    one: tuple[Sequence[str], bytes], other: tuple[Sequence[str], bytes]
) -> None:
    assert (fingerprint(*one) == fingerprint(*other)) == (one == other)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_disconnected_client_gets_the_response_on_retry(tmp_path: Path, secret: str, stream: bool) -> None:
    engine = GatedEcho(is_open=False)
    async with worker(engine, tmp_path) as app:
        lost, returned = AsgiConnection(body(stream=stream)), AsgiConnection(body(stream=stream))
        first = exchange(app, lost, secret)
        await engine.generation_started.wait()
        lost.disconnect()
        second = exchange(app, returned, secret)
        await asyncio.wait([first, second], timeout=2 * TICK)
        engine.gate.set()
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            await asyncio.gather(first, second)
    assert (engine.runs, engine.cancelled) == (1, 0)
    assert response_body(returned) == response_body(lost)
    assert b"ab" in response_body(returned) or stream


async def test_a_response_too_large_to_replay_is_cancelled_on_disconnect(tmp_path: Path, secret: str) -> None:
    engine = GatedEcho()
    async with worker(engine, tmp_path) as app:
        client = AsgiConnection(body(stream=True, prompt="x" * 5000, max_tokens=5000))
        answering = exchange(app, client, secret)
        await client.wait_until(lambda bodies: sum(map(len, bodies)) > MAX_RESPONSE_BYTES)
        client.disconnected.set()
        await answering
        assert engine.cancelled == 1
        again = AsgiConnection(body(stream=True, prompt="x" * 5000, max_tokens=5000))
        again.disconnected.set()
        await exchange(app, again, secret)
    assert engine.runs == 2, "it had not ended, so it was not answered"


async def test_a_waiting_duplicate_stream_gets_keep_alives_then_the_response(tmp_path: Path, secret: str) -> None:
    engine = GatedEcho(withhold_first_token=True, is_open=False)
    async with worker(engine, tmp_path) as app:
        running, waiting = AsgiConnection(body(stream=True)), AsgiConnection(body(stream=True))
        first = exchange(app, running, secret)
        await engine.generation_started.wait()
        second = exchange(app, waiting, secret)
        await waiting.wait_until(lambda bodies: sse.KEEP_ALIVE in bodies)
        engine.gate.set()
        await asyncio.gather(first, second)
    assert engine.runs == 1
    assert response_body(waiting) == response_body(running)
    assert [message["type"] for message in waiting.sent].count("http.response.start") == 1
    assert waiting.sent[-1].get("more_body", False) is False


async def test_a_waiting_duplicate_stream_reports_a_refusal_in_the_stream(tmp_path: Path, secret: str) -> None:
    engine = GatedEcho(BadRequest("The prompt is odd"), withhold_first_token=True)
    engine.gate.clear()
    async with worker(engine, tmp_path, keep_alive_seconds=15) as app, worker(engine, tmp_path) as short_keep_alive:
        running, waiting = AsgiConnection(body(stream=True)), AsgiConnection(body(stream=True))
        first = exchange(app, running, secret)
        await engine.generation_started.wait()
        second = exchange(short_keep_alive, waiting, secret)
        await waiting.wait_until(lambda bodies: sse.KEEP_ALIVE in bodies)
        engine.gate.set()
        await asyncio.gather(first, second)
    assert engine.runs == 1
    assert [message.get("status") for message in running.sent] == [400, None]
    last = response_body(waiting)
    assert last.startswith(b"data: ")
    assert "status 400" in json.loads(last.removeprefix(b"data: "))["error"]["message"]
    assert waiting.sent[-1].get("more_body", False) is False


async def test_a_waiting_duplicate_that_disconnects_leaves_no_state(tmp_path: Path, secret: str) -> None:
    engine = GatedEcho(is_open=False)
    async with worker(engine, tmp_path) as app:
        running, leaving = AsgiConnection(body()), AsgiConnection(body())
        first = exchange(app, running, secret)
        await engine.generation_started.wait()
        leaving.disconnected.set()
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            await exchange(app, leaving, secret)
            assert leaving.sent == []
            engine.gate.set()
            await first
    assert engine.runs == 1


async def test_a_cancelled_request_releases_its_claim(tmp_path: Path, secret: str) -> None:
    engine = GatedEcho(is_open=False)
    async with worker(engine, tmp_path) as app:
        cancelled = exchange(app, AsgiConnection(body()), secret)
        await engine.generation_started.wait()
        cancelled.cancel()
        await asyncio.wait([cancelled])
        engine.gate.set()
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            client = AsgiConnection(body())
            await exchange(app, client, secret)
    assert engine.runs == 2
    assert json.loads(response_body(client))["choices"]
