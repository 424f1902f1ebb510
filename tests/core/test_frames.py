import asyncio
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.frames import FrameTooLong, frame, read_frame, read_frame_from

BODIES = st.lists(st.binary(max_size=300))


@given(BODIES)
def test_frames_are_read_as_they_were_written(bodies: list[bytes]) -> None:
    stream = io.BytesIO(b"".join(map(frame, bodies)))
    assert [read_frame_from(stream) for _ in bodies] == bodies
    assert read_frame_from(stream) is None


@given(BODIES)
async def test_frames_are_read_from_a_connection_too(bodies: list[bytes]) -> None:
    reader = _fed(b"".join(map(frame, bodies)))
    assert [await read_frame(reader, 300) for _ in bodies] == bodies
    assert await read_frame(reader, 300) is None


@given(st.binary(min_size=1, max_size=300), st.data())
async def test_a_frame_that_is_cut_is_the_end(body: bytes, data: st.DataObject) -> None:
    written = frame(body)
    cut = written[: data.draw(st.integers(0, len(written) - 1))]
    assert await read_frame(_fed(cut), 300) is None
    assert read_frame_from(io.BytesIO(cut)) is None


async def test_a_frame_longer_than_any_of_ours_is_not_waited_for() -> None:
    with pytest.raises(FrameTooLong) as error:
        await read_frame(_fed(frame(bytes(301))), 300)
    assert error.value.length == 301


def _fed(received: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(received)
    reader.feed_eof()
    return reader
