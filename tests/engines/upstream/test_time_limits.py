"""The limits themselves on a clock that tests move, and on the real one what they do to connections of both loops."""

import asyncio
import contextlib
import math
from collections.abc import Iterator
from typing import cast

import pytest

from dragoman.engines.upstream.connection import MAX_UNREAD_BYTES, Connection
from dragoman.engines.upstream.http_request import UpstreamRequest
from dragoman.engines.upstream.time_limits import ResponseTimer, UpstreamTimeouts
from dragoman.engines.upstream.transport_errors import LocalShortage, TransportError, UpstreamTimeout
from tests.support.manual_loop import advance, on_manual_loop
from tests.support.scripted_upstream import (
    HEAD,
    ScriptedRequest,
    ScriptedUpstream,
    chunk,
    event,
    hang_after,
    response,
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
        await upstream.is_left.wait()
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
        await upstream.is_left.wait()


class _Response:
    """A connection as its timer sees it."""

    def __init__(self) -> None:
        self.has_response = self.waits_for_reader = False
        self.last_data_at = 0.0
        self.error: TransportError | None = None

    def receive(self) -> None:
        self.has_response, self.last_data_at = True, asyncio.get_running_loop().time()

    def fail(self, error: TransportError) -> None:
        self.error = error


@contextlib.contextmanager
def _timed(timeouts: UpstreamTimeouts, *, is_stream: bool = True) -> Iterator[tuple[ResponseTimer, _Response]]:
    timer, response = ResponseTimer(timeouts, math.inf, is_stream=is_stream), _Response()
    timer.watch(cast(Connection, response))
    yield timer, response
    timer.stop()


@on_manual_loop
async def test_a_long_response_that_is_no_stream_may_take_longer_than_the_limits_of_its_silence() -> None:
    with _timed(UpstreamTimeouts(first_token=2, between_tokens=2), is_stream=False) as (_, response):
        for _ in range(8):
            await advance(1.5)
            assert response.error is None
            response.receive()
        await advance(2)
    assert isinstance(response.error, UpstreamTimeout)
    assert response.error.limit == "between_tokens"


@on_manual_loop
async def test_comments_extend_the_silence_but_not_beyond_the_limit_of_the_first_token() -> None:
    with _timed(UpstreamTimeouts(first_token=30, between_tokens=15)) as (timer, response):
        response.receive()
        timer.note_token()
        for _ in range(29):
            await advance(1)
            assert response.error is None
            response.receive()
        await advance(1)
    assert isinstance(response.error, UpstreamTimeout)
    assert response.error.limit == "between_tokens"


@on_manual_loop
async def test_events_without_tokens_do_not_end_the_wait_for_the_first_one() -> None:
    with _timed(UpstreamTimeouts(first_token=30, between_tokens=15)) as (_, response):
        for _ in range(29):
            await advance(1)
            assert response.error is None
            response.receive()
        await advance(1)
    assert isinstance(response.error, UpstreamTimeout)
    assert response.error.limit == "first_token"


class _Transport(asyncio.Transport):
    """Sends nothing anywhere."""

    def write(self, data: object) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def abort(self) -> None:
        pass


@on_manual_loop
async def test_a_slow_reader_is_no_timeout_of_the_upstream() -> None:
    connection = Connection(lambda _closed: None)
    connection.connection_made(_Transport())
    timer = ResponseTimer(UpstreamTimeouts(first_token=100, between_tokens=10), math.inf, is_stream=True)
    connection.send(b"GET / HTTP/1.1\r\n\r\n")
    timer.watch(connection)
    connection.data_received(HEAD + event(b"1"))
    await connection.read()
    timer.note_token()
    connection.data_received(event(b"x" * MAX_UNREAD_BYTES))
    for _ in range(8):
        await advance(4)
    await connection.read()
    timer.note_token()
    reading = asyncio.create_task(connection.read())
    await advance(9)
    assert not reading.done()
    await advance(1)
    with pytest.raises(UpstreamTimeout, match="between_tokens"):
        await reading
    timer.stop()


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
