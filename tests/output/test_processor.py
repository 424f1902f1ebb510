from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.events import Delta, FinishReason
from dragoman.core.request import SamplingParams
from dragoman.engines.echo.engine import END, ByteVocabulary
from dragoman.output.processor import DetokenizerVocabulary, OutputProcessor

UNREACHED_LIMIT = 1000
"""A limit no test reaches."""


class WordVocabulary:
    """Implements DetokenizerVocabulary: a few words and markup, numbered in this order."""

    texts = ("<end>", "<turn>", "<tool>", "Hel", "lo", " world", "!", "STOP")
    end_token_ids = frozenset({0})

    def piece(self, token: int) -> bytes:
        return self.texts[token].encode()

    def is_special(self, token: int) -> bool:
        return token <= 2


END_WORD, TURN, TOOL, HEL, LO, WORLD, BANG, STOP = range(8)


def run(
    tokens: Sequence[int],
    sampling: SamplingParams,
    *,
    limit: int = UNREACHED_LIMIT,
    vocabulary: DetokenizerVocabulary | None = None,
) -> tuple[list[str], FinishReason | None, int]:
    """Return the text shown with each token, the finish reason, and how many tokens were accepted."""
    processor = OutputProcessor(vocabulary or WordVocabulary(), sampling, limit)
    texts = []
    for token in tokens:
        deltas, reason = processor.accept(token)
        assert [token] == [token for delta in deltas for token in delta.token_ids]
        texts.append("".join(delta.text for delta in deltas if isinstance(delta, Delta)))
        if reason is not None:
            return texts, reason, processor.tokens
    return texts, None, processor.tokens


def ends(
    tokens: Sequence[int], sampling: SamplingParams, limit: int = UNREACHED_LIMIT
) -> tuple[str, FinishReason | None, int]:
    texts, reason, count = run(tokens, sampling, limit=limit)
    return "".join(texts), reason, count


@given(st.text(max_size=40))
def test_a_character_is_shown_whole_with_its_last_byte(text: str) -> None:
    texts, reason, _ = run([*text.encode(), END], SamplingParams(), vocabulary=ByteVocabulary())
    expected = [part for character in text for part in [""] * (len(character.encode()) - 1) + [character]]
    assert (texts, reason) == ([*expected, ""], "stop")


@given(st.text(max_size=20), st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_a_stop_string_split_across_tokens_is_never_shown(text: str, stops: list[str]) -> None:
    texts, _, _ = run([*text.encode(), END], SamplingParams(stop=tuple(stops)), vocabulary=ByteVocabulary())
    shown = "".join(texts)
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)


@given(st.binary(max_size=30))
def test_bytes_that_are_no_characters_become_replacement_characters(answer: bytes) -> None:
    texts, _, _ = run([*answer, END], SamplingParams(), vocabulary=ByteVocabulary())
    assert "".join(texts) == answer.decode(errors="replace")


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_character_the_limit_cuts_becomes_a_replacement_character(limit: int) -> None:
    texts, reason, count = run("😀".encode(), SamplingParams(), limit=limit, vocabulary=ByteVocabulary())
    assert ("".join(texts), reason, count) == ("\ufffd", "length", limit)


def test_the_end_token_ends_the_choice_and_counts() -> None:
    assert ends([HEL, LO, END_WORD, WORLD], SamplingParams()) == ("Hello", "stop", 3)


def test_the_end_token_on_the_last_allowed_token_stops() -> None:
    assert ends([HEL, LO, END_WORD], SamplingParams(), limit=3) == ("Hello", "stop", 3)


def test_a_stop_token_on_the_last_allowed_token_stops() -> None:
    assert ends([HEL, BANG], SamplingParams(stop_token_ids=(BANG,)), limit=2) == ("Hel", "stop", 2)


def test_a_stop_string_on_the_last_allowed_token_stops() -> None:
    assert ends([HEL, LO], SamplingParams(stop=("ello",)), limit=2) == ("H", "stop", 2)


def test_the_limit_ends_a_choice_that_nothing_else_ended() -> None:
    assert ends([HEL, LO, WORLD], SamplingParams(), limit=2) == ("Hello", "length", 2)


def test_text_held_back_is_shown_when_the_limit_ends_the_choice() -> None:
    assert ends([HEL, LO], SamplingParams(stop=("lo world",)), limit=2) == ("Hello", "length", 2)


def test_text_held_back_is_shown_when_the_end_token_ends_the_choice() -> None:
    assert ends([HEL, LO, END_WORD], SamplingParams(stop=("lo world",))) == ("Hello", "stop", 3)


def test_text_held_back_is_shown_when_a_stop_token_ends_the_choice() -> None:
    assert ends([HEL, LO, BANG], SamplingParams(stop=("lo world",), stop_token_ids=(BANG,))) == ("Hello", "stop", 3)


def test_a_stop_token_is_shown_after_the_text_held_back_when_stop_text_is_included() -> None:
    sampling = SamplingParams(stop=("lo world",), stop_token_ids=(BANG,), include_stop_text=True)
    assert ends([HEL, LO, BANG], sampling) == ("Hello!", "stop", 3)


def test_a_stop_string_stays_when_stop_text_is_included() -> None:
    assert ends([HEL, STOP, LO], SamplingParams(stop=("STO",), include_stop_text=True)) == ("HelSTO", "stop", 2)


def test_the_end_token_comes_before_a_stop_string_in_its_text() -> None:
    sampling = SamplingParams(stop=("<end>",), include_stop_text=True, skip_special_tokens=False)
    assert ends([HEL, END_WORD], sampling) == ("Hel", "stop", 2)


@pytest.mark.parametrize(
    ("token", "ending", "shown"),
    [
        (END_WORD, SamplingParams(min_tokens=3), ""),
        (BANG, SamplingParams(min_tokens=3, stop_token_ids=(BANG,)), "!"),
        (BANG, SamplingParams(min_tokens=3, stop=("!",)), "!"),
    ],
)
def test_nothing_ends_a_choice_before_min_tokens(token: int, ending: SamplingParams, shown: str) -> None:
    assert run([token] * 4, ending) == ([shown, shown, ""], "stop", 3)


def test_a_stop_string_that_began_before_min_tokens_is_not_matched() -> None:
    assert ends([HEL, LO, WORLD, END_WORD], SamplingParams(min_tokens=2, stop=("Hello",)))[0] == "Hello world"


def test_end_tokens_are_barred_until_min_tokens_are_produced() -> None:
    processor = OutputProcessor(WordVocabulary(), SamplingParams(min_tokens=2), UNREACHED_LIMIT)
    barred = []
    for token in (HEL, LO, WORLD):
        barred.append(processor.ends_are_barred)
        processor.accept(token)
    assert barred == [True, True, False]


def test_min_tokens_above_the_limit_end_at_the_limit() -> None:
    assert ends([HEL, LO, WORLD], SamplingParams(min_tokens=10), limit=2) == ("Hello", "length", 2)


def test_ignore_eos_treats_the_end_token_as_an_ordinary_hidden_token() -> None:
    assert ends([HEL, END_WORD, LO, BANG], SamplingParams(ignore_eos=True), limit=4) == ("Hello!", "length", 4)


def test_stop_strings_and_stop_tokens_end_a_choice_that_ignores_the_end_token() -> None:
    assert ends([END_WORD, STOP], SamplingParams(ignore_eos=True, stop=("STOP",))) == ("", "stop", 2)
    assert ends([END_WORD, BANG], SamplingParams(ignore_eos=True, stop_token_ids=(BANG,))) == ("", "stop", 2)
    assert ends([HEL, END_WORD], SamplingParams(ignore_eos=True, stop_token_ids=(END_WORD,))) == ("Hel", "stop", 2)


def test_special_tokens_are_hidden_unless_asked_for() -> None:
    tokens = [TURN, HEL, TOOL, LO, END_WORD]
    assert ends(tokens, SamplingParams())[0] == "Hello"
    assert ends(tokens, SamplingParams(skip_special_tokens=False))[0] == "<turn>Hel<tool>lo"


def test_neighbouring_special_tokens_are_shown_with_a_space_between_them() -> None:
    tokens = [TURN, TOOL, TURN, HEL, TOOL, END_WORD]
    apart = SamplingParams(skip_special_tokens=False)
    together = SamplingParams(skip_special_tokens=False, spaces_between_special_tokens=False)
    assert ends(tokens, apart)[0] == "<turn> <tool> <turn>Hel<tool>"
    assert ends(tokens, together)[0] == "<turn><tool><turn>Hel<tool>"


def test_a_stop_string_is_found_in_special_tokens_that_are_shown() -> None:
    assert ends([HEL, TURN, LO], SamplingParams(skip_special_tokens=False, stop=("<turn>",))) == ("Hel", "stop", 2)
    assert ends([HEL, TURN, LO, END_WORD], SamplingParams(stop=("<turn>",))) == ("Hello", "stop", 4)


@pytest.mark.parametrize(
    ("tokens", "sampling", "expected"),
    [
        ([HEL, STOP], SamplingParams(stop=("TOP", "STO")), "STO"),
        ([HEL, LO], SamplingParams(stop=("lo", "ello")), "ello"),
        ([HEL, BANG], SamplingParams(stop_token_ids=(BANG,)), BANG),
        ([HEL, END_WORD], SamplingParams(stop_token_ids=(END_WORD,)), None),
        ([HEL, END_WORD], SamplingParams(stop_token_ids=(END_WORD,), ignore_eos=True), END_WORD),
    ],
)
def test_what_stopped_a_choice_is_known_unless_it_ended_by_itself(
    tokens: list[int], sampling: SamplingParams, expected: str | int | None
) -> None:
    processor = OutputProcessor(WordVocabulary(), sampling, UNREACHED_LIMIT)
    reasons = [processor.accept(token).reason for token in tokens]
    assert (reasons[-1], processor.stop_reason) == ("stop", expected)


@given(st.lists(st.integers(0, 255), max_size=30), st.integers(1, 20))
def test_text_that_nothing_reads_is_shown_like_text_that_no_stop_string_is_found_in(
    tokens: list[int], limit: int
) -> None:
    plain, searched = (
        OutputProcessor(ByteVocabulary(), SamplingParams(stop=stop), limit) for stop in ((), ("\x00 never \x01",))
    )
    for token in tokens[:limit]:
        if token == 0:  # It begins the stop string, and is held back.
            continue
        assert plain.accept(token) == searched.accept(token)
