import asyncio
import contextlib
import io
import socket
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.frames import FrameSender, FrameTooLong, encode_frame, read_frame, read_frame_blocking
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

BODIES = st.lists(st.binary(max_size=300))


@given(BODIES)
def test_frames_are_read_as_they_were_written(bodies: list[bytes]) -> None:
    stream = io.BytesIO(b"".join(map(encode_frame, bodies)))
    assert [read_frame_blocking(stream) for _ in bodies] == bodies
    assert read_frame_blocking(stream) is None


@given(BODIES)
async def test_frames_are_read_from_a_connection_too(bodies: list[bytes]) -> None:
    reader = _reader_of(b"".join(map(encode_frame, bodies)))
    assert [await read_frame(reader, 300) for _ in bodies] == bodies
    assert await read_frame(reader, 300) is None


@given(st.binary(min_size=1, max_size=300), st.data())
async def test_a_truncated_frame_ends_the_stream(body: bytes, data: st.DataObject) -> None:
    written = encode_frame(body)
    truncated = written[: data.draw(st.integers(0, len(written) - 1))]
    assert await read_frame(_reader_of(truncated), 300) is None
    assert read_frame_blocking(io.BytesIO(truncated)) is None


async def test_an_oversized_frame_is_rejected_without_reading_its_body() -> None:
    with pytest.raises(FrameTooLong) as error:
        await read_frame(_reader_of(encode_frame(bytes(301))), 300)
    assert error.value.length == 301


def _reader_of(received: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(received)
    reader.feed_eof()
    return reader


@contextlib.asynccontextmanager
async def _connected(max_unsent_bytes: int) -> AsyncIterator[tuple[FrameSender, asyncio.StreamReader]]:
    """Give a sender and what reads its frames."""
    ours, theirs = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=ours)
    reader, reading = await asyncio.open_connection(sock=theirs)
    sender = FrameSender(writer, max_unsent_bytes)
    try:
        yield sender, reader
    finally:
        sender.close()
        reading.close()
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(writer.wait_closed(), reading.wait_closed())


async def test_what_is_sent_arrives_before_the_loop_has_had_a_turn() -> None:
    ours, theirs = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=ours)
    sender = FrameSender(writer, 100)
    sender.send(encode_frame(b"now"))
    with theirs, theirs.makefile("rb") as stream:
        assert read_frame_blocking(stream) == b"now"
    sender.close()
    await writer.wait_closed()


async def test_frames_of_several_threads_arrive_whole_and_in_order_however_slow_their_reader_is() -> None:
    threads, frames, size = 4, 40, 60_000  # Together far more than a socket holds.
    async with _connected(2**30) as (sender, reader):

        def send(thread: int) -> None:
            for number in range(frames):
                sender.send(encode_frame(bytes((thread, number)) * (size // 2)))

        sending = [asyncio.create_task(asyncio.to_thread(send, thread)) for thread in range(threads)]
        numbers: defaultdict[int, list[int]] = defaultdict(list)
        for _ in range(threads * frames):
            body = await read_frame(reader, size)
            assert body is not None
            assert body == body[:2] * (size // 2)
            numbers[body[0]].append(body[1])
        await asyncio.gather(*sending)
        assert numbers == {thread: list(range(frames)) for thread in range(threads)}
        sender.send(encode_frame(b"after all others"))
        assert await read_frame(reader, size) == b"after all others"
        sender.close()
        sender.send(encode_frame(b"dropped"))
        assert await read_frame(reader, size) is None


async def test_a_frame_may_be_longer_than_what_is_unsent_as_long_as_its_reader_takes_it() -> None:
    async with _connected(2**20) as (sender, reader):
        sender.send(encode_frame(bytes(2**21)))
        sender.send(encode_frame(b"after it"))
        assert await read_frame(reader, 2**21) == bytes(2**21)
        assert await read_frame(reader, 100) == b"after it"


async def test_the_connection_of_a_reader_that_is_too_far_behind_is_cut() -> None:
    async with _connected(10_000) as (sender, reader):
        sender.send(encode_frame(bytes(2**22)))
        assert await read_frame(reader, 2**22) is None


async def test_the_connection_of_a_reader_that_takes_nothing_is_cut() -> None:
    ours, theirs = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=ours)
    with theirs:
        FrameSender(writer, 2**20, patience_seconds=0.02).send(encode_frame(bytes(2**21)))
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            await writer.wait_closed()


class _CountingTransport:
    """A transport that counts how often it is asked what it has still to send."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def get_write_buffer_size(self) -> int:
        self.asked += 1
        return self._transport.get_write_buffer_size()


async def test_a_slow_reader_is_looked_at_as_often_however_many_frames_wait_for_it() -> None:
    ours, theirs = socket.socketpair()
    _, connected = await asyncio.open_connection(sock=ours)
    loop = asyncio.get_running_loop()
    transport = _CountingTransport(connected.transport)
    writer = asyncio.StreamWriter(cast(asyncio.Transport, transport), connected.transport.get_protocol(), None, loop)
    sender = FrameSender(writer, 2**30)
    frames = 300
    with theirs:
        sender.send(bytes(2**22))
        for _ in range(frames):
            await asyncio.to_thread(sender.send, encode_frame(b"next"))
        before, began = transport.asked, loop.time()
        await asyncio.sleep(0.1)
        assert transport.asked - before <= 1 + (loop.time() - began) / 0.01
        sender.abort()
        await connected.wait_closed()
