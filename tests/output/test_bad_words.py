from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from dragoman.output.bad_words import BadWords, TokenSequence, bad_word_tokens

TOKENS = st.integers(0, 3)


def last_tokens_of_matching_words(words: Sequence[TokenSequence], generated: Sequence[int]) -> set[int]:
    """vLLM's definition, word by word: the prefix is what the generated tokens end with."""
    return {
        last for *before, last in words if len(before) <= len(generated) and [*generated][-len(before) :] == before
    } | {word[0] for word in words if len(word) == 1}


@given(st.lists(st.lists(TOKENS, min_size=1, max_size=4).map(tuple), max_size=5), st.lists(TOKENS, max_size=12))
def test_the_token_that_completes_a_word_is_barred_and_no_other(
    words: list[TokenSequence], generated: list[int]
) -> None:
    bad_words = BadWords(words)
    for position in range(len(generated) + 1):
        assert set(bad_words.barred()) == last_tokens_of_matching_words(words, generated[:position])
        bad_words.record(generated[position] if position < len(generated) else 0)


def test_a_word_is_forbidden_as_it_stands_and_after_a_space_if_that_is_a_token_of_its_own() -> None:
    vocabulary = {"cat": [1], " cat": [2], "dog": [3, 4], " dog": [5, 6], "  dog": [7]}
    assert bad_word_tokens(["cat", "dog"], vocabulary.__getitem__) == [(1,), (2,), (3, 4), (5, 6)]
    assert bad_word_tokens([" cat"], vocabulary.__getitem__) == [(1,), (2,)], "spaces before a word do not count"


def test_a_space_that_is_a_token_of_its_own_is_not_forbidden() -> None:
    vocabulary = {"cat": [1], " cat": [9, 1], "dog": [3, 4], " dog": [3, 5]}
    assert bad_word_tokens(["cat", "dog"], vocabulary.__getitem__) == [(1,), (3, 4)]
