"""Generation responses as the ASGI server sees them, for what HTTP clients cannot observe."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message, Scope

from dragoman.core.errors import EngineFailed
from dragoman.core.events import Event, Unenforced
from dragoman.core.request import GenerationRequest
from dragoman.dialects.http.context import HttpOptions
from dragoman.dialects.http.generation_response import ON_DISCONNECT
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.server.app import App, build_app
from tests.support.dialects.asgi_connections import AsgiConnection
from tests.support.echo_engines import GatedEcho
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

TICK = 0.01
"""Seconds of silence after which a comment is sent."""

SCOPE: Scope = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "path": "/v1/completions",
    "headers": [(b"host", b"localhost")],
    "query_string": b"",
}


class LenientEngine(EchoEngine):
    """An engine that does not enforce a keyword of every request."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        yield Unenforced(0, ["'contains' at #/properties/größe"])
        async with contextlib.aclosing(super().generate(request)) as events:
            async for event in events:
                yield event


def app_over(engine: EchoEngine, keep_alive_seconds: float = TICK) -> App:
    options = HttpOptions(max_body_bytes=1000, keep_alive_seconds=keep_alive_seconds)
    return build_app(Catalog([Deployment.of("echo", (), engine)]), options, metrics_directory=None)


async def exchange(
    client: AsgiConnection, engine: EchoEngine | None = None, *, keep_alive_seconds: float = TICK
) -> None:
    engine = engine or EchoEngine()
    app = app_over(engine, keep_alive_seconds)
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await app(dict(SCOPE), client.receive, client.send)
    assert (await engine.statistics()).running == 0


def body(**fields: object) -> bytes:
    return json.dumps({"model": "echo", "prompt": "ab", **fields}).encode()


async def test_a_disconnect_during_the_request_body_is_not_an_error() -> None:
    await exchange(AsgiConnection(b'{"model":', disconnects=True))


async def test_nothing_follows_the_last_frame_to_a_client_that_reads_slowly() -> None:
    client = AsgiConnection(body(stream=True), last_write_seconds=20 * TICK)
    await exchange(client)
    assert client.bodies[-1].endswith(b"data: [DONE]\n\n")
    assert [message.get("more_body", True) for message in client.sent][-1] is False


async def test_the_frames_of_fast_tokens_share_writes_and_keep_their_order() -> None:
    client = AsgiConnection(body(stream=True, prompt="".join(map(chr, range(97, 123))) * 8, max_tokens=208))
    await exchange(client, keep_alive_seconds=TEST_TIMEOUT_SECONDS)
    frames = b"".join(client.bodies).split(b"\n\n")
    assert all(written.endswith(b"\n\n") for written in client.bodies)
    text = "".join(json.loads(frame.removeprefix(b"data: "))["choices"][0]["text"] for frame in frames[:208])
    assert text == "".join(map(chr, range(97, 123))) * 8
    assert len(client.bodies) < len(frames) / 2


async def test_a_token_does_not_wait_for_the_next_one() -> None:
    engine = GatedEcho(is_open=False)
    client = AsgiConnection(body(stream=True))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(exchange(client, engine, keep_alive_seconds=TEST_TIMEOUT_SECONDS))
        await client.wait_until(lambda bodies: any(b'"text":"a"' in each for each in bodies))
        assert not any(b'"text":"b"' in each for each in client.bodies)
        engine.gate.set()
    assert b'"text":"b"' in b"".join(client.bodies)


async def test_an_error_right_behind_a_token_follows_it_in_the_stream() -> None:
    client = AsgiConnection(body(stream=True))
    await exchange(client, GatedEcho(EngineFailed("It broke")), keep_alive_seconds=TEST_TIMEOUT_SECONDS)
    first, error = b"".join(client.bodies).split(b"\n\n")[:2]
    assert client.sent[0]["status"] == 200
    assert b'"text":"a"' in first
    assert b"It broke" in error


async def test_a_server_that_reports_disconnects_stops_the_generation() -> None:
    engine = GatedEcho(is_open=False)
    app = app_over(engine)
    client = AsgiConnection(body())
    answer = asyncio.create_task(app({**SCOPE, ON_DISCONNECT: client.reports.append}, client.receive, client.send))
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await engine.generation_started.wait()
        assert len(client.reports) == 1
        client.reports.pop()()
        await answer
    assert engine.cancelled == 1
    assert client.sent == []


class BrokenConnection(AsgiConnection):
    """A connection that fails when the answer is written to it."""

    async def send(self, message: Message) -> None:
        raise ConnectionError("broken")


async def test_a_client_that_cannot_be_written_to_ends_the_generation() -> None:
    engine = GatedEcho(is_open=False)
    with pytest.raises(ConnectionError, match="broken"):
        await exchange(BrokenConnection(body(stream=True)), engine, keep_alive_seconds=TEST_TIMEOUT_SECONDS)
    assert engine.cancelled == 1


async def test_an_error_before_the_first_byte_is_an_error_response() -> None:
    client = AsgiConnection(body(stream=True, prompt=""), last_write_seconds=20 * TICK)
    await exchange(client)
    assert [message.get("status") for message in client.sent] == [400, None]
    assert json.loads(b"".join(client.bodies))["error"]["code"] == "400"


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 2, "best_of": 3}])
async def test_what_is_not_enforced_is_named_in_a_header(fields: dict[str, object]) -> None:
    client = AsgiConnection(body(**fields))
    # A comment would begin the stream, and with it end the headers.
    await exchange(client, LenientEngine(), keep_alive_seconds=TEST_TIMEOUT_SECONDS)
    assert client.sent[0]["status"] == 200
    header = dict(client.sent[0]["headers"])[b"x-dragoman-unenforced"]
    assert header == b"'contains' at #/properties/gr%C3%B6%C3%9Fe"


async def test_an_answer_without_such_keywords_has_no_such_header() -> None:
    client = AsgiConnection(body())
    await exchange(client)
    assert b"x-dragoman-unenforced" not in dict(client.sent[0]["headers"])
