"""How responses are written to a connection, and what becomes of them when the client leaves."""

import asyncio
import contextlib
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.server import ServerState

from dragoman.dialects.http.generation_response import ON_DISCONNECT
from dragoman.server.http_server import bounded_protocol, retire_connections
from dragoman.server.settings import HttpSettings
from tests.support.manual_loop import advance, on_manual_loop


class RecordingTransport(asyncio.Transport):
    """A transport that keeps what is written to it, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.written.append(b"closed")

    def is_closing(self) -> bool:
        return b"closed" in self.written

    def pause_reading(self) -> None:
        self.written.append(b"paused")

    def resume_reading(self) -> None:
        self.written.append(b"resumed")


def head(*fields: str, path: str = "/") -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: x", *fields, "", ""]).encode()


class StallingApp:
    """An app that answers nothing until it is stopped, and notes what happens."""

    def __init__(self) -> None:
        self.left: list[str] = []
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.running += 1

        def leave() -> None:
            self.left.append(scope["path"])
            task.cancel()

        while (await receive())["more_body"]:
            pass
        scope[ON_DISCONNECT](leave)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


def connected(app: ASGIApp, **limits: Any) -> tuple[Any, RecordingTransport]:
    """Connect the protocol of a worker, to an app, with a recording transport."""
    kind = bounded_protocol(HttpSettings(**limits), frozenset())
    config = uvicorn.Config(app, interface="asgi3", http=kind, lifespan="off", log_config=None)
    config.load()
    protocol = kind(config=config, server_state=ServerState(), app_state={})
    transport = RecordingTransport()
    protocol.connection_made(transport)
    return protocol, transport


async def settled() -> None:
    """Let all that is ready run."""
    for _ in range(10):
        await asyncio.sleep(0)


def sending(*messages: Message) -> ASGIApp:
    """Return an app that sends these messages, with a turn of the event loop after each."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
            await asyncio.sleep(0)

    return app


def start(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def test_the_head_of_a_response_is_sent_with_its_first_bytes() -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        for message in (start(200), part(b"one", more=True), part(b"two")):
            await send(message)

    protocol, transport = connected(app)
    protocol.data_received(head())
    await settled()
    first, second = transport.written
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert first.endswith(b"transfer-encoding: chunked\r\n\r\n3\r\none\r\n")
    assert second == b"3\r\ntwo\r\n0\r\n\r\n"


async def test_a_head_alone_is_sent_after_the_iteration_of_the_loop() -> None:
    protocol, transport = connected(sending(start(200), part(b"one")))
    protocol.data_received(head())
    await settled()
    alone, body = transport.written
    assert alone.startswith(b"HTTP/1.1 200 OK\r\n")
    assert alone.endswith(b"\r\n\r\n")
    assert body == b"3\r\none\r\n0\r\n\r\n"


async def test_a_head_that_waits_is_sent_before_the_connection_is_closed() -> None:
    protocol, transport = connected(sending(start(204), part(b"")))
    protocol.data_received(head("connection: close"))
    await settled()
    assert transport.written[0].startswith(b"HTTP/1.1 204 No Content\r\n")
    assert transport.written[-1] == b"closed"


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([start(200, (b"x", b"a\r\nb: c"))], id="a line break in a value"),
        pytest.param([start(200, (b"x y", b"a"))], id="a space in a name"),
        pytest.param([part(b"a")], id="a body without a head"),
        pytest.param([start(200), start(200)], id="two heads"),
        pytest.param([start(200, (b"content-length", b"1")), part(b"ab")], id="a long body"),
        pytest.param([start(200, (b"content-length", b"3")), part(b"ab")], id="a short body"),
    ],
)
async def test_a_response_that_is_none_is_not_sent_whole(messages: list[Message]) -> None:
    protocol, transport = connected(sending(*messages))
    protocol.data_received(head())
    await settled()
    written = b"".join(transport.written)
    assert b"b: c" not in written
    assert written.startswith(b"HTTP/1.1 500 ") or transport.written[-1] == b"closed"


@pytest.mark.parametrize("body", [b"", b"b" * 200_000])
async def test_the_app_is_called_when_the_client_leaves_however_large_its_body_was(body: bytes) -> None:
    app = StallingApp()
    protocol, transport = connected(app)
    protocol.data_received(head(f"content-length: {len(body)}"))
    await settled()
    protocol.data_received(body)
    await settled()
    assert app.running == 1
    flow = [event for event in transport.written if event in (b"paused", b"resumed")]
    assert flow[-1:] == [b"resumed"] * bool(body), "who does not read does not see the client leave"
    protocol.connection_lost(None)
    assert app.left == ["/"]


async def test_a_client_that_leaves_stops_the_request_before_those_that_it_sent_ahead() -> None:
    app = StallingApp()
    protocol, _ = connected(app)
    protocol.data_received(head(path="/first") + head(path="/second"))
    await settled()
    assert app.running == 1
    protocol.connection_lost(None)
    assert app.left == ["/first"]


async def test_a_client_that_leaves_after_its_response_is_not_reported() -> None:
    app = StallingApp()

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        scope[ON_DISCONNECT](lambda: app.left.append("late"))
        await sending(start(200), part(b"all"))(scope, receive, send)

    protocol, _ = connected(answering)
    protocol.data_received(head())
    await settled()
    protocol.connection_lost(None)
    assert app.left == []


LIMIT_SECONDS = 1.0
"""Less than an idle connection is kept for."""


def gated(gate: asyncio.Event, *before: Message) -> ASGIApp:
    """Return an app that sends the messages, and the end of its response when the gate is open."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        for message in before or (start(200),):
            await send(message)
        await gate.wait()
        await send(part(b"end"))

    return app


@pytest.mark.parametrize(
    "before",
    [
        pytest.param((start(200, (b"content-length", b"6")), part(b"beg", more=True)), id="half a body"),
        pytest.param((), id="a head alone"),
    ],
)
async def test_what_is_no_request_is_not_answered_within_another_response(before: tuple[Message, ...]) -> None:
    protocol, transport = connected(gated(asyncio.Event(), *before))
    protocol.data_received(head())
    await settled()
    protocol.data_received(b"\0\r\n\r\n")
    written = b"".join(transport.written)
    assert written.count(b"HTTP/1.1 ") == 1
    assert transport.written[-1] == b"closed"
    protocol.connection_lost(None)


@pytest.mark.parametrize("ahead", [pytest.param(b"\r\n", id="a blank line"), pytest.param(b"GET ", id="half a head")])
@on_manual_loop
async def test_a_response_is_not_cut_off_because_the_next_request_is_not_complete(ahead: bytes) -> None:
    gate = asyncio.Event()
    protocol, transport = connected(gated(gate), head_timeout_seconds=LIMIT_SECONDS)
    protocol.data_received(head("content-length: 0"))
    await settled()
    protocol.data_received(ahead)
    for _ in range(3):
        await advance(LIMIT_SECONDS)
    assert not transport.is_closing()
    gate.set()
    await settled()
    assert b"".join(transport.written).endswith(b"3\r\nend\r\n0\r\n\r\n")
    await advance(LIMIT_SECONDS)
    if ahead.strip():
        assert transport.is_closing()
        assert transport.written[-2].startswith(b"HTTP/1.1 408 ")
    else:
        assert not transport.is_closing(), "the connection is idle"
    protocol.connection_lost(None)


@on_manual_loop
async def test_a_retired_connection_closes_soon_after_the_response_that_was_running() -> None:
    gate = asyncio.Event()
    protocol, transport = connected(gated(gate))
    protocol.timeout_keep_alive = 75
    protocol.data_received(head("content-length: 0"))
    await settled()
    retire_connections(type(protocol))
    protocol.close_if_idle()
    gate.set()
    await settled()
    assert not transport.is_closing()
    await advance(protocol.timeout_keep_alive / 2)
    assert transport.is_closing()


@on_manual_loop
async def test_a_connection_whose_request_was_answered_early_is_closed_when_it_is_idle() -> None:
    protocol, transport = connected(sending(start(404), part(b"none")))
    protocol.timeout_keep_alive = LIMIT_SECONDS
    protocol.data_received(head("content-length: 10") + b"12345")
    await settled()
    protocol.data_received(b"67890")
    assert not transport.is_closing()
    await advance(LIMIT_SECONDS)
    assert transport.is_closing()


@on_manual_loop
async def test_a_body_that_is_too_slow_gets_no_second_response() -> None:
    protocol, transport = connected(sending(start(404), part(b"none")), body_timeout_seconds=LIMIT_SECONDS)
    protocol.data_received(head("content-length: 10") + b"12345")
    await advance(LIMIT_SECONDS)
    await advance(LIMIT_SECONDS)
    assert transport.is_closing()
    assert b"".join(transport.written).count(b"HTTP/1.1 ") == 1


@on_manual_loop
async def test_a_body_is_not_too_slow_because_its_request_had_to_wait() -> None:
    gate = asyncio.Event()
    protocol, transport = connected(gated(gate), body_timeout_seconds=LIMIT_SECONDS)
    protocol.data_received(head("content-length: 0") + head("content-length: 10"))
    for _ in range(3):
        await advance(LIMIT_SECONDS * 0.8)
    gate.set()
    await settled()
    await advance(LIMIT_SECONDS * 0.8)
    assert not transport.is_closing()
    for _ in range(2):
        await advance(LIMIT_SECONDS)
    assert transport.is_closing()


async def test_a_client_cannot_have_any_number_of_requests_wait() -> None:
    app = StallingApp()
    protocol, transport = connected(app)
    protocol.data_received(head("content-length: 0"))
    await settled()
    protocol.data_received(head("content-length: 0") * 100)
    assert not transport.is_closing()
    assert len(protocol.pipeline) == 100
    protocol.data_received(head("content-length: 0") * 1000)
    assert transport.is_closing()
    assert len(protocol.pipeline) == 100
    protocol.connection_lost(None)
    assert app.left == ["/"]
