import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from dragoman.dialects.http.generation_response import Frames, NumberedFrames
from dragoman.dialects.http.sse import SseEvent, frame

documents = st.lists(st.binary(min_size=1, max_size=3).map(lambda text: text.hex().encode()), max_size=6)


@given(documents, st.integers(0, 8))
def test_numbered_frames_resume_after_the_last_received(texts: list[bytes], after: int) -> None:
    every, later = NumberedFrames(), NumberedFrames(after)
    whole = [every.encode(SseEvent(text)) for text in texts]
    assert whole == [b"id: %d\ndata: %b\n\n" % (number + 1, text) for number, text in enumerate(texts)]
    assert [later.encode(SseEvent(text)) for text in texts] == [b""] * min(after, len(texts)) + whole[after:]
    assert later.has_caught_up == (after <= len(texts))


@given(st.text())
@example("\x85\u2028\u2029\n\r\x1c")
def test_an_event_is_one_line_in_every_reading(text: str) -> None:
    data = msgspec.json.encode(text)
    [line, end] = frame(SseEvent(data)).decode().splitlines()
    assert (msgspec.json.decode(line.removeprefix("data: ")), end) == (text, "")


def test_a_named_event_has_its_name_before_its_data() -> None:
    assert frame(SseEvent(b"{}", "error")) == b"event: error\ndata: {}\n\n"
    assert NumberedFrames().encode(SseEvent(b"{}", "error")) == b"id: 1\nevent: error\ndata: {}\n\n"


@given(st.binary(max_size=3), st.none() | st.just("error"))
def test_a_stream_without_numbers_has_the_bytes_of_its_events(data: bytes, name: str | None) -> None:
    assert Frames().encode(SseEvent(data, name)) == frame(SseEvent(data, name))
