import itertools

from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.events import TokenLogprobs, TopLogprob
from dragoman.dialects.openai.logprobs import ChatTopLogprob, TextOffsets, chat_token_logprobs, text_logprobs


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Split the data at these places."""
    ends = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[begin:end] for begin, end in itertools.pairwise(ends)]


@given(st.text(min_size=1, max_size=20), st.lists(st.integers(0, 100)))
def test_a_token_begins_where_the_characters_before_it_end(text: str, places: list[int]) -> None:
    offsets = TextOffsets()
    before = b""
    for token in cut(text.encode(), places):
        start = offsets.advance(token)
        whole = before.decode(errors="ignore")
        assert text[:start] == whole
        before += token


@given(st.text(min_size=1, max_size=20), st.lists(st.integers(0, 100)), st.integers(0, 20))
def test_chunked_logprobs_equal_full_logprobs(text: str, places: list[int], chunk: int) -> None:
    logprobs = [TokenLogprobs(1, token, -1.0, []) for token in cut(text.encode(), places)]
    offsets = TextOffsets()
    first, rest = text_logprobs(logprobs[:chunk], offsets), text_logprobs(logprobs[chunk:], offsets)
    whole = text_logprobs(logprobs, TextOffsets())
    for member in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert getattr(first, member) + getattr(rest, member) == getattr(whole, member)


def test_a_partial_character_is_a_replacement_with_its_bytes() -> None:
    [logprobs] = chat_token_logprobs([TokenLogprobs(1, b"\xe6\x97", -9999.0, [TopLogprob(1, b"\xe6\x97", -9999.0)])])
    assert (logprobs.token, logprobs.bytes, logprobs.logprob) == ("\ufffd", [0xE6, 0x97], -9999.0)
    assert logprobs.top_logprobs == [ChatTopLogprob("\ufffd", -9999.0, [0xE6, 0x97])]


def test_the_likeliest_of_equal_looking_tokens_is_reported() -> None:
    top = [TopLogprob(1, b"\xe6", -0.1), TopLogprob(2, b"\xe7", -0.2), TopLogprob(3, b"a", -0.3)]
    logprobs = text_logprobs([TokenLogprobs(1, b"\xe6", -0.1, top)], TextOffsets())
    assert logprobs.top_logprobs == [{"\ufffd": -0.1, "a": -0.3}]
