"""These tests use the real clock."""

import asyncio

import pytest

from dragoman.engines.upstream.http_request import UpstreamRequest
from dragoman.engines.upstream.time_limits import UpstreamTimeouts
from dragoman.engines.upstream.transport_errors import LocalShortage, UpstreamTimeout
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
from tests.support.timeouts import TEST_TIMEOUT_SECONDS
from tests.support.upstream_clients import CHAT, connected, failure


@pytest.mark.parametrize(
    ("parts", "limit"),
    [
        ([], "first_token"),
        ([HEAD], "first_token"),
        ([HEAD, event(b"1")], "between_tokens"),
        ([b"HTTP/1.1 200 OK\r\n"], "first_token"),
    ],
    ids=["no head", "no event", "one event", "half a head"],
)
async def test_a_silent_upstream_is_left_after_its_limit(parts: list[bytes], limit: str) -> None:
    timeouts = UpstreamTimeouts(
        first_token=0.05 if limit == "first_token" else TEST_TIMEOUT_SECONDS,
        between_tokens=0.05 if limit == "between_tokens" else TEST_TIMEOUT_SECONDS,
    )
    upstream = ScriptedUpstream(lambda request: hang_after(request, *parts))
    async with connected(upstream, timeouts) as client:
        error = await failure(client)
        await upstream.requests[0].closed.wait()
    assert isinstance(error, UpstreamTimeout)
    assert error.limit == limit


@pytest.mark.parametrize(
    ("parts", "limit"),
    [
        ([], "first_token"),
        ([HEAD], "between_tokens"),
        ([HEAD, chunk(b"[")], "between_tokens"),
    ],
    ids=["no head", "no body", "half a body"],
)
async def test_a_silent_upstream_is_left_after_its_limit_when_its_response_is_no_stream(
    parts: list[bytes], limit: str
) -> None:
    timeouts = UpstreamTimeouts(
        first_token=0.05 if limit == "first_token" else TEST_TIMEOUT_SECONDS,
        between_tokens=0.05 if limit == "between_tokens" else TEST_TIMEOUT_SECONDS,
    )
    upstream = ScriptedUpstream(lambda request: hang_after(request, *parts))
    async with connected(upstream, timeouts) as client:
        with pytest.raises(UpstreamTimeout, match=limit):
            await client.fetch(CHAT)
        await upstream.requests[0].closed.wait()


async def test_a_long_response_that_is_no_stream_may_take_longer_than_the_limits_of_its_silence() -> None:
    async def send_slowly(request: ScriptedRequest) -> object:
        await request.send(HEAD)
        for _ in range(8):
            await asyncio.sleep(0.05)
            await request.send(chunk(b"1"))
        await request.send(LAST_CHUNK)
        return True

    timeouts = UpstreamTimeouts(first_token=0.2, between_tokens=0.2)
    async with connected(ScriptedUpstream(send_slowly), timeouts) as client:
        assert await client.fetch(CHAT) == b"1" * 8


async def test_comments_extend_the_silence_but_not_beyond_the_limit_of_the_first_token() -> None:
    async def ping(request: ScriptedRequest) -> None:
        await request.send(HEAD, event(b"1"))
        while not request.closed.is_set():
            await request.send(chunk(b": keep-alive\n\n"))

    timeouts = UpstreamTimeouts(first_token=0.3, between_tokens=0.15)
    loop = asyncio.get_running_loop()
    async with connected(ScriptedUpstream(ping), timeouts) as client:
        started_at = loop.time()
        error = await failure(client)
    assert isinstance(error, UpstreamTimeout)
    assert error.limit == "between_tokens"
    # The difference of two floats may be less than 0.3 by a part of a nanosecond: uvloop counts whole milliseconds.
    assert round(loop.time() - started_at, 9) >= 0.3


async def test_events_without_tokens_do_not_end_the_wait_for_the_first_one() -> None:
    timeouts = UpstreamTimeouts(first_token=0.1, between_tokens=TEST_TIMEOUT_SECONDS)
    upstream = ScriptedUpstream(lambda request: hang_after(request, HEAD, event(b"role")))
    async with connected(upstream, timeouts) as client, client.stream(CHAT) as stream:
        await stream.read()
        with pytest.raises(UpstreamTimeout, match="first_token"):
            await stream.read()


async def test_a_slow_reader_is_no_timeout_of_the_upstream() -> None:
    timeouts = UpstreamTimeouts(first_token=0.1, between_tokens=0.1)
    upstream = ScriptedUpstream(sends(HEAD + event(b"x" * 1_000) * 1_000 + LAST_CHUNK))
    async with connected(upstream, timeouts) as client, client.stream(CHAT) as stream:
        count = len(await stream.read())
        stream.note_token()
        await asyncio.sleep(0.3)
        while events := await stream.read():
            stream.note_token()
            count += len(events)
    assert count == 1_000


@pytest.mark.parametrize("is_deadline", [True, False])
async def test_the_total_time_and_the_clients_deadline_bound_everything(is_deadline: bool) -> None:
    async def babble(request: ScriptedRequest) -> None:
        await request.send(HEAD)
        while not request.closed.is_set():
            await request.send(event(b"1"))

    timeouts = UpstreamTimeouts() if is_deadline else UpstreamTimeouts(total=0.3)
    async with connected(ScriptedUpstream(babble), timeouts) as client:
        deadline = asyncio.get_running_loop().time() + (0.3 if is_deadline else TEST_TIMEOUT_SECONDS)
        error = await failure(client, UpstreamRequest(path="/", body=b"{}", deadline=deadline))
    assert isinstance(error, UpstreamTimeout)
    assert error.limit == "total"


async def test_more_requests_than_connections_wait_and_not_for_ever() -> None:
    release = asyncio.Event()

    async def hold(request: ScriptedRequest) -> None:
        await release.wait()
        await request.send(response(200, b"[]"))

    async with connected(ScriptedUpstream(hold), UpstreamTimeouts(connect=0.1), max_connections=1) as client:
        first = asyncio.create_task(client.fetch(CHAT))
        await asyncio.sleep(0)
        with pytest.raises(LocalShortage, match="all connections"):
            await client.fetch(CHAT)
        release.set()
        assert await first == b"[]"
        assert await client.fetch(CHAT) == b"[]"
