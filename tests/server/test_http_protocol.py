"""What a client may send before the app sees a request, and for how long."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from dragoman.server.http_server import bounded_protocol
from dragoman.server.settings import HttpSettings
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

LIMITS = HttpSettings(
    max_head_bytes=4096,
    max_url_bytes=1024,
    max_headers=20,
    head_timeout_seconds=TEST_TIMEOUT_SECONDS,
    body_timeout_seconds=TEST_TIMEOUT_SECONDS,
    max_connections=100,
    max_connections_per_address=50,
)
SOON = (0.05, 1.0, 20.0)
"""Seconds, after which a client is cut off. A busy machine may not have read what it has sent by the first ones."""


async def echo_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the size of the body: at once, or in three parts under /stream. Under /host: the hosts."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(2 if scope["path"] == "/stream" else 0):
        await send({"type": "http.response.body", "body": b"part,", "more_body": True})
    hosts = b" ".join(value for name, value in scope["headers"] if name == b"host")
    await send({"type": "http.response.body", "body": hosts if scope["path"] == "/host" else str(size).encode()})


class StartedServer(uvicorn.Server):
    """A server that signals when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_started = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_started.set()


@contextlib.asynccontextmanager
async def running_server(trusted_proxies: frozenset[str] = frozenset(), **changed: Any) -> AsyncIterator[int]:
    """Serve echo_app with these limits; gives the port.

    It has a thread, so that it runs on the event loop that a worker has, whose transports are not asyncio's.
    """
    limits = msgspec.structs.replace(LIMITS, **changed)
    config = uvicorn.Config(
        echo_app,
        port=0,
        http=bounded_protocol(limits, trusted_proxies),
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = StartedServer(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert await asyncio.to_thread(server.is_started.wait, TEST_TIMEOUT_SECONDS)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join, TEST_TIMEOUT_SECONDS)


async def exchange(port: int, *parts: bytes) -> bytes:
    """Send the parts and return all that comes back until the server closes the connection."""
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(65536):
                answer += part
        writer.close()
        return answer


def head(*fields: str, path: str = "/", method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "host: x", *fields, "", ""]).encode()


CLOSE = "connection: close"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 40 + b"\r\n", 431, id="too many fields"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 4000, 431, id="endless fields"),
        pytest.param(b"GET / HTTP/1.1\r\na: " + b"b" * 5000, 431, id="one endless field"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"a" * 5000, 431, id="one endless field name"),
        pytest.param(b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414, id="a long URL"),
        pytest.param(b"GET /" + b"a" * 5000, 414, id="an endless URL"),
        pytest.param(
            head("transfer-encoding: chunked", method="POST") + b"0\r\n" + b"a: b\r\n" * 4000,
            431,
            id="endless trailers",
        ),
        pytest.param(
            head("transfer-encoding: chunked", method="POST") + b"1;" + b"a" * 20000,
            431,
            id="an endless chunk extension",
        ),
    ],
)
async def test_what_goes_beyond_a_limit_is_refused_and_the_connection_closed(sent: bytes, status: int) -> None:
    async with running_server() as port:
        answer = await exchange(port, sent)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"connection: close" in answer


async def test_a_head_at_the_limit_is_served() -> None:
    fields = [f"a{number}: {'b' * 180}" for number in range(18)]
    async with running_server() as port:
        assert (await exchange(port, head(*fields, CLOSE))).endswith(b"1\r\n0\r\n0\r\n\r\n")


@settings(max_examples=20)
@given(st.lists(st.integers(1, 70_000), min_size=1, max_size=6), st.booleans(), st.data())
def test_bodies_arrive_whole_however_they_are_cut(sizes: list[int], chunked: bool, data: st.DataObject) -> None:
    total = sum(sizes)
    if chunked:
        body = b"".join(b"%x\r\n" % size + b"c" * size + b"\r\n" for size in sizes) + b"0\r\n\r\n"
        request = head("transfer-encoding: chunked", CLOSE, method="POST") + body
    else:
        request = head(f"content-length: {total}", CLOSE, method="POST") + b"c" * total
    cuts = sorted(data.draw(st.lists(st.integers(0, len(request)), max_size=5)))
    parts = [request[start:end] for start, end in zip([0, *cuts], [*cuts, len(request)], strict=True)]

    async def served() -> bytes:
        async with running_server() as port:
            return await exchange(port, *parts)

    answer = asyncio.run(served())
    assert answer.endswith(b"\r\n%x\r\n%d\r\n0\r\n\r\n" % (len(str(total)), total))


OFFER = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAAAAIAAAAA")
"""What a JDK's HttpClient adds to each request without TLS."""


@pytest.mark.parametrize(
    "cuts",
    [pytest.param((), id="one packet"), pytest.param((-8,), id="the body later"), pytest.param((30, -3), id="cut")],
)
@pytest.mark.parametrize(
    ("field", "body"),
    [
        pytest.param("content-length: 5", b"12345", id="length"),
        pytest.param("transfer-encoding: chunked", b"5\r\n12345\r\n0\r\n\r\n", id="chunks"),
        pytest.param("x: y", b"", id="none"),
    ],
)
async def test_a_client_that_offers_another_protocol_is_answered_in_this_one(
    field: str, body: bytes, cuts: Sequence[int]
) -> None:
    sent = head(*OFFER, field, method="POST") + body
    ends = [*cuts, len(sent)]
    parts = [sent[start:end] for start, end in zip([0, *cuts], ends, strict=True)]
    async with running_server() as port:
        answer = await exchange(port, *parts, head(*OFFER) * 3 + head(CLOSE))
    sizes = [part.partition(b"\r\n")[0] for part in answer.split(b"\r\n\r\n1\r\n")[1:]]
    assert sizes == [b"5" if body else b"0", b"0", b"0", b"0", b"0"]
    assert answer.count(b"HTTP/1.1 200 OK") == 5


@pytest.mark.parametrize("target", ["x:1", "/"])
async def test_a_tunnel_is_refused(target: str) -> None:
    async with running_server() as port:
        answer = await exchange(port, head(*OFFER, path=target, method="CONNECT"))
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_requests_in_one_packet_are_all_answered() -> None:
    async with running_server() as port:
        answer = await exchange(port, head() * 3 + head(CLOSE))
    assert answer.count(b"HTTP/1.1 200 OK") == 4


@pytest.mark.parametrize(
    ("limit", "sent", "answer"),
    [
        pytest.param("head_timeout_seconds", b"GET / HTTP/1.1\r\na:", b"HTTP/1.1 408 ", id="a head that never ends"),
        pytest.param("head_timeout_seconds", b"", b"", id="a client that sends nothing"),
        pytest.param(
            "body_timeout_seconds",
            head("content-length: 10", method="POST") + b"12345",
            b"HTTP/1.1 408 ",
            id="half a body",
        ),
    ],
)
async def test_who_stops_sending_is_cut_off(limit: str, sent: bytes, answer: bytes) -> None:
    for seconds in SOON:
        changed: dict[str, Any] = {limit: seconds}
        async with running_server(**changed) as port:
            received = await exchange(port, sent)
        if bool(received) == bool(answer):
            break
    assert received.startswith(answer)
    assert bool(received) == bool(answer)


async def test_further_connections_of_an_address_are_refused() -> None:
    async with running_server(max_connections_per_address=2) as port:
        open_connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        assert (await exchange(port, b"")).startswith(b"HTTP/1.1 503 ")
        for _, writer in open_connections:
            writer.close()
            await writer.wait_closed()
        await eventually(lambda: exchange(port, head(CLOSE)), lambda answer: answer.startswith(b"HTTP/1.1 200 "))


async def test_connections_of_a_trusted_proxy_are_limited_in_all_only() -> None:
    async with running_server(
        max_connections=3, max_connections_per_address=1, trusted_proxies=frozenset({"127.0.0.1"})
    ) as port:
        writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(2)]
        assert (await exchange(port, head(CLOSE))).startswith(b"HTTP/1.1 200 ")
        writers.append((await asyncio.open_connection("127.0.0.1", port))[1])
        assert (await exchange(port, b"")).startswith(b"HTTP/1.1 503 ")
        for writer in writers:
            writer.close()


async def eventually(attempt: Callable[[], Any], is_right: Callable[[bytes], bool]) -> None:
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        while not is_right(await attempt()):
            pass


@pytest.mark.parametrize(
    ("target", "hosts"), [("/host", b"x"), ("http://y:80/host", b"y:80"), ("HTTP://a@y/host?q", b"a@y")]
)
async def test_the_host_of_a_target_in_absolute_form_precedes_the_header(target: str, hosts: bytes) -> None:
    async with running_server() as port:
        answer = await exchange(port, head(path=target, version="1.0"))
    assert answer.endswith(b"\r\n\r\n" + hosts)


@pytest.mark.parametrize(
    ("request_line", "fields", "status"),
    [
        pytest.param("GET / HTTP/1.1", (), 400, id="no host"),
        pytest.param("GET / HTTP/1.1", ("host: x", "Host: x"), 400, id="two hosts"),
        pytest.param("GET / HTTP/1.1", ("host:",), 200, id="an empty host"),
        pytest.param("GET / HTTP/1.0", (), 200, id="HTTP/1.0 without a host"),
        pytest.param("GET / HTTP/1.0", ("host: x", "host: y"), 400, id="HTTP/1.0 with two hosts"),
        pytest.param("GET http://x/ HTTP/1.1", (), 400, id="an absolute target without a host"),
        pytest.param("GET http://x/ HTTP/1.1", ("host: y",), 200, id="an absolute target with a host"),
        pytest.param("GET http://x/ HTTP/1.1", ("host: x", "host: x"), 400, id="an absolute target with two hosts"),
        pytest.param("GET http://x/ HTTP/1.0", (), 200, id="HTTP/1.0 with an absolute target"),
        pytest.param("POST / HTTP/1.1", OFFER, 400, id="an offer of another protocol without a host"),
    ],
)
async def test_an_http_1_1_request_has_one_host(request_line: str, fields: tuple[str, ...], status: int) -> None:
    sent = "\r\n".join([request_line, *fields, CLOSE, "", ""]).encode()
    async with running_server() as port:
        answer = await exchange(port, sent)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize("path", ["/", "/stream"])
async def test_an_http_1_0_client_gets_no_chunks(path: str) -> None:
    async with running_server() as port:
        answer = await exchange(port, head(path=path, version="1.0"))
    assert b"transfer-encoding" not in answer
    assert answer.endswith(b"\r\n\r\npart,part,0" if path == "/stream" else b"\r\n\r\n0")
