"""The client against servers that do what upstreams do. conftest.py runs these tests on both event loops."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dragoman import __version__
from dragoman.core.secret_text import SecretText
from dragoman.engines.upstream.event_stream import ReceivedEvent
from dragoman.engines.upstream.http_client import UpstreamClient
from dragoman.engines.upstream.http_request import UpstreamAddress, UpstreamRequest
from dragoman.engines.upstream.time_limits import UpstreamTimeouts
from dragoman.engines.upstream.transport_errors import (
    ConnectFailed,
    UpstreamDisconnected,
)
from tests.support.manual_loop import advance, on_manual_loop
from tests.support.scripted_upstream import (
    HEAD,
    LAST_CHUNK,
    ScriptedRequest,
    ScriptedUpstream,
    chunk,
    event,
    hang_after,
    response,
    running_upstream,
    sends,
)
from tests.support.timeouts import TEST_TIMEOUT_SECONDS
from tests.support.upstream_clients import CERTIFICATE, CHAT, KEY, connected, failure, received


async def test_a_stream_is_read_in_order_and_its_connection_used_again() -> None:
    events = [b"%d" % number for number in range(256)]
    upstream = ScriptedUpstream(sends(HEAD, *map(event, events), LAST_CHUNK))
    async with connected(upstream) as client:
        assert await received(client) == events
        assert await received(client) == events
        assert client.open_connections == 1
    assert upstream.connections == 1


async def test_names_of_events_are_kept() -> None:
    upstream = ScriptedUpstream(sends(HEAD, chunk(b"event: error\ndata: {}\n\n"), LAST_CHUNK))
    async with connected(upstream) as client, client.stream(CHAT) as stream:
        assert await stream.read() == [ReceivedEvent(b"{}", b"error")]
        assert await stream.read() == []


async def test_a_response_without_a_length_ends_with_its_connection() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    upstream = ScriptedUpstream(sends(head, b"data: 1\n\n", b"data: 2\n\n", close=True))
    async with connected(upstream) as client:
        assert await received(client) == [b"1", b"2"]
        assert client.open_connections == 0


async def test_interim_responses_are_skipped() -> None:
    upstream = ScriptedUpstream(sends(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", HEAD, event(b"1"), LAST_CHUNK))
    async with connected(upstream) as client:
        assert await received(client) == [b"1"]


async def test_a_request_has_our_headers_and_no_others() -> None:
    upstream = ScriptedUpstream(sends(HEAD, LAST_CHUNK))
    headers = {"x-request-id": "abc", "traceparent": "00-1", "tracestate": "a\r\nx: b", "x-claude-code-session-id": "s"}
    async with connected(upstream) as client:
        await received(client, UpstreamRequest(path="/v1/x", body=b"{}", headers=headers))
        with pytest.raises(ValueError, match="'cookie' is not sent"):
            await received(client, UpstreamRequest(path="/v1/x", headers={"cookie": "a=b"}))
    [request] = upstream.requests
    port = request.writer.get_extra_info("sockname")[1]
    assert request.head.decode().split("\r\n") == [
        "POST /v1/x HTTP/1.1",
        f"host: 127.0.0.1:{port}",
        f"user-agent: dragoman/{__version__}",
        "accept-encoding: identity",
        f"authorization: Bearer {KEY}",
        "accept: text/event-stream",
        "x-request-id: abc",
        "traceparent: 00-1",
        "x-claude-code-session-id: s",
        "content-type: application/json",
        "content-length: 2",
        "",
        "",
    ]
    assert request.body == b"{}"


async def test_a_unix_socket_is_an_upstream_too(tmp_path: Path) -> None:
    upstream = ScriptedUpstream(sends(response(200, b"[]")))
    async with running_upstream(upstream, tmp_path / "engine.sock") as url:
        client = UpstreamClient(UpstreamAddress.parse(url), key=SecretText("abc"), key_header="x-api-key")
        assert await client.fetch(UpstreamRequest(path="/v1/models")) == b"[]"
        client.close()
    [request] = upstream.requests
    assert request.head.startswith(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n")
    assert b"\r\nx-api-key: abc\r\n" in request.head


@pytest.mark.parametrize(("trusted", "reason"), [(True, ""), (False, "CERTIFICATE_VERIFY_FAILED")])
async def test_an_upstream_with_tls_must_have_a_trusted_certificate(trusted: bool, reason: str) -> None:
    upstream = ScriptedUpstream(sends(response(200, b"[]")))
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(CERTIFICATE)
    client_context = ssl.create_default_context()
    if trusted:
        client_context.load_verify_locations(CERTIFICATE)
        client_context.check_hostname = False  # The certificate's name is not that of this machine.
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, ssl=server_context)
    port = server.sockets[0].getsockname()[1]
    client = UpstreamClient(UpstreamAddress.parse(f"https://127.0.0.1:{port}"), tls=client_context)
    request = UpstreamRequest(path="/v1/models")
    if trusted:
        assert await client.fetch(request) == b"[]"
    else:
        with pytest.raises(ConnectFailed, match=reason):
            await client.fetch(request)
    client.close()
    server.close()
    upstream.stop()
    await server.wait_closed()


async def test_a_refused_connection_and_an_unknown_name_are_told_apart_from_a_lost_one() -> None:
    async with running_upstream(ScriptedUpstream(sends())) as url:
        pass
    patient = UpstreamTimeouts(connect=TEST_TIMEOUT_SECONDS)  # The system may look for the name for long.
    for address, reason in ((url, "Connection refused"), ("http://no.such.host.invalid", "name has no address")):
        client = UpstreamClient(UpstreamAddress.parse(address), timeouts=patient)
        error = await failure(client)
        assert isinstance(error, ConnectFailed)
        assert reason in str(error)
        assert "127.0.0.1" not in str(error)


async def test_a_missing_unix_socket_is_a_failed_connection(tmp_path: Path) -> None:
    client = UpstreamClient(UpstreamAddress.parse(f"unix://{tmp_path}/none.sock"))
    assert isinstance(await failure(client), ConnectFailed)


@pytest.mark.parametrize(
    ("parts", "has_response"),
    [([], False), ([b"HTTP/1.1 200"], True), ([HEAD, event(b"1")], True), ([HEAD, b"5\r\nda"], True)],
    ids=["before a byte", "in the head", "between events", "in a chunk"],
)
async def test_a_connection_that_closes_early_is_lost(parts: list[bytes], has_response: bool) -> None:
    async with connected(ScriptedUpstream(sends(*parts, close=True))) as client:
        error = await failure(client)
    assert isinstance(error, UpstreamDisconnected)
    assert error.has_response == has_response


async def test_events_before_a_loss_are_delivered_first() -> None:
    upstream = ScriptedUpstream(sends(HEAD + event(b"1") + event(b"2"), close=True))
    async with connected(upstream) as client, client.stream(CHAT) as stream:
        assert [each.data for each in await stream.read()] == [b"1", b"2"]
        with pytest.raises(UpstreamDisconnected):
            await stream.read()


async def test_a_request_that_crosses_the_closing_of_an_idle_connection_is_sent_again_once() -> None:
    closes = sends(close=True)
    upstream = ScriptedUpstream(sends(HEAD, LAST_CHUNK), closes, sends(HEAD, event(b"1"), LAST_CHUNK), closes)
    async with connected(upstream, crossing_seconds=TEST_TIMEOUT_SECONDS) as client:
        await received(client)
        # The connection is open still; the upstream closes it when it gets the request.
        assert await received(client) == [b"1"]
        assert (len(upstream.requests), upstream.connections) == (3, 2)
        assert isinstance(await failure(client), UpstreamDisconnected)
    assert (len(upstream.requests), upstream.connections) == (5, 3)


async def test_a_request_that_was_lost_later_than_a_closing_takes_is_not_sent_again() -> None:
    upstream = ScriptedUpstream(sends(HEAD, LAST_CHUNK), sends(close=True))
    async with connected(upstream, crossing_seconds=0) as client:
        await received(client)
        assert isinstance(await failure(client), UpstreamDisconnected)
    assert len(upstream.requests) == 2


async def test_a_request_is_not_sent_again_after_a_byte_of_its_response() -> None:
    upstream = ScriptedUpstream(sends(HEAD, LAST_CHUNK), sends(b"HTTP/1.1", close=True))
    async with connected(upstream) as client:
        await received(client)
        assert isinstance(await failure(client), UpstreamDisconnected)
    assert len(upstream.requests) == 2


async def test_an_idle_connection_that_was_closed_is_not_used() -> None:
    async def answer_and_close(request: ScriptedRequest) -> bool:
        await request.send(HEAD, event(b"1"), LAST_CHUNK)
        return True

    upstream = ScriptedUpstream(answer_and_close)
    async with connected(upstream) as client:
        for _ in range(3):
            assert await received(client) == [b"1"]
    assert len(upstream.requests) == 3


@on_manual_loop
async def test_idle_connections_are_closed_after_their_time() -> None:
    upstream = ScriptedUpstream(sends(HEAD, event(b"1"), LAST_CHUNK))
    async with connected(upstream, idle_seconds=10) as client:
        await asyncio.gather(received(client), received(client))
        await advance(6)
        await received(client)
        assert client.open_connections == 2
        await advance(6)
        assert client.open_connections == 1, "the time of one began anew"
        await advance(6)
        assert client.open_connections == 0
        await upstream.is_left.wait()
        assert await received(client) == [b"1"], "another one is opened"


@pytest.mark.parametrize("rest", [b"data", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"])
async def test_a_connection_with_bytes_behind_its_response_is_not_used_again(rest: bytes) -> None:
    upstream = ScriptedUpstream(sends(response(200, b"[]") + rest), sends(response(200, b"{}")))
    async with connected(upstream) as client:
        assert await client.fetch(CHAT) == b"[]"
        assert await client.fetch(CHAT) == b"{}"
    assert upstream.connections == 2


@pytest.mark.parametrize("parts", [[], [HEAD], [HEAD, event(b"1")]], ids=["no head", "no event", "an event"])
async def test_a_cancelled_request_closes_its_connection_at_once(parts: list[bytes]) -> None:
    sent = asyncio.Event()

    async def hang(request: ScriptedRequest) -> None:
        await request.send(*parts)
        sent.set()
        await request.closed.wait()

    upstream = ScriptedUpstream(hang)
    async with connected(upstream) as client:
        task = asyncio.create_task(received(client))
        await sent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.open_connections == 0
        await upstream.requests[0].closed.wait()


async def test_leaving_a_stream_early_closes_its_connection() -> None:
    upstream = ScriptedUpstream(lambda request: hang_after(request, HEAD, event(b"1")))
    async with connected(upstream) as client:
        async with client.stream(CHAT) as stream:
            await stream.read()
        assert client.open_connections == 0
        await upstream.requests[0].closed.wait()


async def test_closing_the_client_fails_what_is_under_way() -> None:
    began = asyncio.Event()

    async def hang(request: ScriptedRequest) -> None:
        began.set()
        await hang_after(request, HEAD)

    async with connected(ScriptedUpstream(hang)) as client:
        task = asyncio.create_task(failure(client))
        await began.wait()
        client.close()
        assert isinstance(await task, UpstreamDisconnected)
        assert client.open_connections == 0


@contextlib.contextmanager
def silent_address(port: int) -> Iterator[str]:
    """Yield an address at whose port connections are neither accepted nor refused: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.2", port))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.2", port))
        yield "127.0.0.2"


@pytest.mark.parametrize("first", ["silent", "refusing"])
@on_manual_loop
async def test_a_host_is_reached_at_its_other_address_when_the_first_is_gone(first: str) -> None:
    upstream = ScriptedUpstream(sends(HEAD, event(b"1"), LAST_CHUNK))
    async with running_upstream(upstream) as url, asyncio.timeout(TEST_TIMEOUT_SECONDS):
        port = UpstreamAddress.parse(url).port
        with silent_address(port) as silent:

            async def resolve(host: str, _port: int) -> Sequence[str]:
                assert host == "gpu.example"
                return [silent if first == "silent" else "127.0.0.3", "127.0.0.1"]

            address = UpstreamAddress("http", "gpu.example", port, "")
            client = UpstreamClient(address, timeouts=UpstreamTimeouts(connect=10), resolve=resolve)
            try:
                receiving = asyncio.create_task(received(client))
                await advance(0)  # The first address is tried.
                await advance(5)
                assert await receiving == [b"1"]
            finally:
                client.close()
    assert f"host: gpu.example:{port}".encode() in upstream.requests[0].head
