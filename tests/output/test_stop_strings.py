from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.output.processor import StopMatcher

# Few characters, so that random strings overlap with themselves, with each other and with the text.
LETTERS = "abé"
CHUNKS = st.lists(st.text(LETTERS, max_size=6), max_size=12)
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=5), max_size=4)


def reference(text: str, stops: Sequence[str], include: bool) -> tuple[str, bool]:
    """Return the shown text and whether a stop string ends it, by searching every prefix."""
    for end in range(1, len(text) + 1):
        if complete := [len(stop) for stop in stops if text[:end].endswith(stop)]:
            return text[: end if include else end - max(complete)], True
    return text, False


def shown(chunks: Sequence[str], stops: Sequence[str], include: bool = False) -> tuple[str, bool]:
    matcher = StopMatcher(stops, include_stop_text=include)
    text = ""
    for chunk in chunks:
        text += matcher.feed(chunk)
        if matcher.stopped:
            return text, True
    return text + matcher.flush(), False


def longest_prefix(text: str, stops: Sequence[str]) -> int:
    """Return the length of the longest proper prefix of a stop string that the text ends with."""
    return max((size for stop in stops for size in range(len(stop)) if text.endswith(stop[:size])), default=0)


@given(CHUNKS, STOPS, st.booleans())
def test_the_shown_text_ends_at_the_first_complete_stop_string_however_it_is_split(
    chunks: list[str], stops: list[str], include: bool
) -> None:
    assert shown(chunks, stops, include) == reference("".join(chunks), stops, include)


@given(CHUNKS, STOPS)
def test_exactly_the_longest_prefix_of_a_stop_string_is_held_back(chunks: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    read = seen = ""
    for chunk in chunks:
        read += chunk
        seen += matcher.feed(chunk)
        if matcher.stopped:
            return
        assert seen == read[: len(read) - longest_prefix(read, stops)]


@given(CHUNKS, STOPS)
def test_nothing_is_shown_after_the_stop(chunks: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    for chunk in chunks:
        over = matcher.stopped
        assert matcher.feed(chunk) == "" or not over
    assert matcher.flush() == "" or not matcher.stopped


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one END two", ["END"], "one "),
        ("aab", ["ab"], "a"),
        ("abcd", ["abcd", "bc"], "a"),
        ("xabc", ["bc", "abc"], "x"),
        ("xabc", ["c", "bc"], "xa"),
        ("ababac", ["abac"], "ab"),
        ("no stop here", ["END"], "no stop here"),
        ("EN", ["END"], "EN"),
        ("END", ["END"], ""),
        ("日本語", ["本"], "日"),
        ("👩‍👩‍👧", ["‍👧"], "👩‍👩"),
    ],
)
def test_the_text_is_cut_before_the_stop_string(text: str, stops: list[str], expected: str) -> None:
    assert shown(list(text), stops) == shown([text], stops)
    assert shown([text], stops)[0] == expected


def test_a_stop_string_that_is_included_ends_the_text() -> None:
    assert shown(["one E", "ND two"], ["END"], include=True) == ("one END", True)


def test_long_self_similar_stop_strings_take_constant_work_per_character() -> None:
    stops = ["a" * length + "b" for length in range(192, 256)]
    assert shown(["a" * 10_000, "c"], stops) == ("a" * 10_000 + "c", False)
