import json
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dragoman.output.scanning import ExpectedMarkup, JsonValueScanner, atoms_of_head, atoms_of_words, overlap

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.text("ab", max_size=8), st.text("ab", min_size=1, max_size=5))
def test_the_overlap_is_the_longest_proper_prefix_that_the_text_ends_with(text: str, marker: str) -> None:
    lengths = [length for length in range(len(marker)) if text.endswith(marker[:length])]
    assert overlap(text, marker) == max(lengths)


@given(VALUES, st.sampled_from(["}", " ", ",", "\n}", "]"]), st.randoms())
@example('a "quoted\\" }', ",", random.Random(1))
@example({"a": ["\\", "]"]}, "}", random.Random(1))
def test_a_value_ends_where_json_ends(value: Any, following: str, randomness: random.Random) -> None:
    written = json.dumps(value, ensure_ascii=False)
    text = written + following
    scanner = JsonValueScanner()
    read = 0
    while read < len(text):
        chunk = text[read : read + randomness.randint(1, 4)]
        end = scanner.end(chunk)
        if end is not None:
            assert read + end == len(written)
            return
        read += len(chunk)
    pytest.fail("the value did not end")


def test_words_may_have_any_whitespace_or_none_before_them() -> None:
    expected = ExpectedMarkup(atoms_of_words("[A] ["))
    for text in ("[A][", "[A] [", "\n[A]\t \r\n["):
        assert expected.match(text)
    assert not expected.match("[ A][")


def test_the_name_is_found_in_a_head() -> None:
    expected = ExpectedMarkup(atoms_of_head('{"name": "', '", "arguments": '))
    assert expected.opens_call
    found = expected.match('{"name":\n"get_weather" ,"arguments": {')
    assert found is not None
    assert found[1] == "get_weather"
    assert not expected.match('{"name": "get_weather", "arguments": ')


@given(st.text('{"name": f,arguments}', max_size=40), st.integers(0, 40))
def test_prefixes_of_expected_markup_match(text: str, length: int) -> None:
    expected = ExpectedMarkup(atoms_of_head('{"name": "', '", "arguments": '), atoms_of_words("] }"))
    whole = '{"name": "f", "arguments": '
    assert expected.matches_prefix(whole[:length])
    if expected.matches_prefix(text):
        assert expected.matches_prefix(text[:length])
