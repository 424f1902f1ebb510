"""What upstreams send instead of the stream that was asked for."""

import asyncio
import traceback

import pytest

from dragoman.engines.upstream.connection import MAX_HEAD_BYTES, MAX_UNREAD_BYTES
from dragoman.engines.upstream.event_stream import MAX_EVENT_BYTES
from dragoman.engines.upstream.http_client import MAX_ERROR_BYTES
from dragoman.engines.upstream.transport_errors import (
    BrokenResponse,
    UpstreamStatus,
    WrongContentType,
)
from tests.support.scripted_upstream import (
    HEAD,
    LAST_CHUNK,
    ScriptedRequest,
    ScriptedUpstream,
    chunk,
    event,
    hang_after,
    response,
    sends,
)
from tests.support.upstream_clients import CHAT, KEY, connected, failure, received


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 404, 429, 500, 503])
async def test_any_status_but_2xx_is_an_error_with_its_body_and_no_redirect_is_followed(status: int) -> None:
    upstream = ScriptedUpstream(sends(response(status, b'{"error":1}', "location: /other", "retry-after: 7")))
    async with connected(upstream) as client:
        error = await failure(client)
        assert client.open_connections == 1  # The response was read, so that the connection can be used again.
    assert isinstance(error, UpstreamStatus)
    assert (error.status, error.body, error.retry_after) == (status, b'{"error":1}', 7)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1.5", 1.5),
        ("99999999", 3600),
        ("-1", 0),
        ("soon", None),
        ("nan", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:00 +99999999999999999999", None),
    ],
)
async def test_retry_after_is_a_bounded_number_of_seconds(value: str, seconds: float | None) -> None:
    headers = (f"retry-after: {value}", "x-should-retry: false")
    async with connected(ScriptedUpstream(sends(response(429, b"", *headers)))) as client:
        error = await failure(client)
    assert isinstance(error, UpstreamStatus)
    assert (error.retry_after, error.may_retry) == (seconds, False)


async def test_the_body_of_an_error_is_bounded() -> None:
    async def babble(request: ScriptedRequest) -> None:
        await request.send(HEAD.replace(b"200 OK", b"500 Oops"))
        while not request.closed.is_set():
            await request.send(chunk(b"x" * 10_000))

    async with connected(ScriptedUpstream(babble)) as client:
        error = await failure(client)
    assert isinstance(error, UpstreamStatus)
    assert error.body == b"x" * MAX_ERROR_BYTES


async def test_an_error_that_repeats_the_key_is_read_without_it() -> None:
    upstream = ScriptedUpstream(sends(response(401, f"Incorrect API key: {KEY}".encode())))
    async with connected(upstream) as client:
        error = await failure(client)
    assert isinstance(error, UpstreamStatus)
    assert error.body == b"Incorrect API key: [key]"
    assert KEY not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("content_type", ["application/json", "text/html", "text/event-streams"])
async def test_another_content_type_is_no_stream_and_its_body_is_kept(content_type: str) -> None:
    body = b'{"error":{"message":"no"}}'
    async with connected(ScriptedUpstream(sends(response(200, body, f"content-type: {content_type}")))) as client:
        error = await failure(client)
    assert isinstance(error, WrongContentType)
    assert error.body == body


@pytest.mark.parametrize(
    "parts",
    [
        [b"SSH-2.0-OpenSSH_9.6\r\n"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n"],
        [HEAD, b"zz\r\nabc"],
        [b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc"],
        [b"HTTP/1.1 200 OK\r\n" + b"x-filler: " + b"x" * MAX_HEAD_BYTES + b"\r\n"],
        [b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_HEAD_BYTES // 20)],
        [HEAD, chunk(b"data: " + b"x" * MAX_EVENT_BYTES)],
        [HEAD, *[chunk(b"data: " + b"x" * 100_000 + b"\n")] * 11],
    ],
    ids=["ssh", "two lengths", "chunk", "upgrade", "head", "interim", "line", "lines"],
)
async def test_what_is_no_bounded_stream_of_events_is_broken_and_its_connection_closed(parts: list[bytes]) -> None:
    async with connected(ScriptedUpstream(lambda request: hang_after(request, *parts))) as client:
        error = await failure(client)
        assert client.open_connections == 0
    assert isinstance(error, BrokenResponse)


async def test_a_compressed_body_is_broken() -> None:
    compressed = response(200, b"abc", "content-type: text/event-stream", "content-encoding: gzip")
    async with connected(ScriptedUpstream(sends(compressed))) as client:
        assert isinstance(await failure(client), BrokenResponse)


async def test_a_compressed_error_has_its_status_still() -> None:
    compressed = response(429, b"\x1f\x8b", "content-encoding: gzip", "retry-after: 7")
    async with connected(ScriptedUpstream(sends(compressed))) as client:
        error = await failure(client)
    assert isinstance(error, UpstreamStatus)
    assert (error.status, error.retry_after) == (429, 7)


async def test_a_body_may_be_said_not_to_be_compressed() -> None:
    plain = response(200, b"data: 1\n\n", "content-type: text/event-stream", "content-encoding: Identity")
    async with connected(ScriptedUpstream(sends(plain))) as client:
        assert await received(client) == [b"1"]


async def test_a_large_body_that_was_not_read_does_not_block_the_next_response() -> None:
    body = b"x" * (2 * MAX_UNREAD_BYTES)
    encoded = response(200, body, "content-encoding: gzip")
    async with connected(ScriptedUpstream(sends(encoded), sends(response(200, body)))) as client:
        with pytest.raises(BrokenResponse):
            await client.fetch(CHAT)
        assert await client.fetch(CHAT) == body


async def test_a_stream_that_was_left_with_much_unread_does_not_block_the_next_response() -> None:
    large = event(b"x" * (MAX_UNREAD_BYTES + 1_000))
    upstream = ScriptedUpstream(sends(HEAD + event(b"1"), large + LAST_CHUNK), sends(HEAD, event(b"2"), LAST_CHUNK))
    async with connected(upstream) as client:
        async with client.stream(CHAT) as stream:
            await stream.read()
            for _ in range(100):  # The rest of the response arrives, but is not read.
                await asyncio.sleep(0)
        assert await received(client) == [b"2"]


async def test_a_body_that_is_no_stream_is_bounded() -> None:
    async with connected(ScriptedUpstream(sends(response(200, b"x" * 101)))) as client:
        with pytest.raises(BrokenResponse, match="more than 100 bytes"):
            await client.fetch(CHAT, max_bytes=100)
        assert len(await client.fetch(CHAT, max_bytes=101)) == 101


async def test_an_unread_stream_is_not_read_into_memory() -> None:
    sent = 0

    async def flood(request: ScriptedRequest) -> None:
        nonlocal sent
        await request.send(HEAD)
        while not request.closed.is_set():
            await request.send(event(b"x" * 10_000))
            sent += 10_000

    async with connected(ScriptedUpstream(flood)) as client, client.stream(CHAT) as stream:
        await stream.read()
        before = -1
        while sent != before:  # Until the upstream can send no more: the sockets' buffers are full.
            before = sent
            for _ in range(100):
                await asyncio.sleep(0)
        unread = 0
        while unread < sent - 10_000 * 100:
            unread += sum(len(each.data) for each in await stream.read())
    assert MAX_UNREAD_BYTES < sent < 64 * 1024 * 1024
