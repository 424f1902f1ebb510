from hypothesis import given
from hypothesis import strategies as st

from dragoman.dialects.sse import NumberedFrames, frame

documents = st.lists(st.binary(min_size=1, max_size=3).map(lambda text: text.hex().encode()), max_size=6)


@given(documents, st.integers(0, 8))
def test_numbered_frames_from_one_on_are_the_same_whichever_come_before(texts: list[bytes], after: int) -> None:
    every, later = NumberedFrames(), NumberedFrames(after)
    whole = [every.next(frame(text)) for text in texts]
    assert whole == [b"id: %d\ndata: %b\n\n" % (number + 1, text) for number, text in enumerate(texts)]
    assert [later.next(frame(text)) for text in texts] == [b""] * min(after, len(texts)) + whole[after:]
    assert later.reached == (after <= len(texts))


def test_a_dialect_without_a_terminator_has_no_number_for_it() -> None:
    frames = NumberedFrames(1)
    assert frames.next(b"") == b""
    assert not frames.reached
