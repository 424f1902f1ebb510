from hypothesis import given
from hypothesis import strategies as st

from dragoman.dialects.http.sse import NumberedFrames, frame

documents = st.lists(st.binary(min_size=1, max_size=3).map(lambda text: text.hex().encode()), max_size=6)


@given(documents, st.integers(0, 8))
def test_numbered_frames_resume_after_the_last_received(texts: list[bytes], after: int) -> None:
    every, later = NumberedFrames(), NumberedFrames(after)
    whole = [every.encode(frame(text)) for text in texts]
    assert whole == [b"id: %d\ndata: %b\n\n" % (number + 1, text) for number, text in enumerate(texts)]
    assert [later.encode(frame(text)) for text in texts] == [b""] * min(after, len(texts)) + whole[after:]
    assert later.has_caught_up == (after <= len(texts))


def test_an_empty_terminator_is_not_numbered() -> None:
    frames = NumberedFrames(1)
    assert frames.encode(b"") == b""
    assert not frames.has_caught_up
