import asyncio
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.frames import FrameTooLong, encode_frame, read_frame, read_frame_blocking

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
