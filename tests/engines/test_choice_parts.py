"""What a choice makes of an answer that is more than text: thoughts, calls of tools, and log-probabilities."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.events import AnyDelta, Delta, FinishReason, ReasoningDelta, TokenLogprobs, ToolCallDelta
from dragoman.core.request import SamplingParams
from dragoman.engines.choice import Choice
from dragoman.engines.echo.engine import END, ByteVocabulary
from dragoman.prompt.call_reader import Certainty
from dragoman.prompt.reading import Reading, build_reader
from dragoman.prompt.thinking import CLOSING, OPENING, Thinking

PLENTY = 1000
THINKING = Thinking(OPENING, CLOSING, begun=False, budget=None)
TOOLS = Reading("hermes")
BOTH = Reading("hermes", THINKING)

CALL = '<tool_call>\n{"name": "get_time", "arguments": {"zone": "STOP"}}\n</tool_call>'


class Words:
    """Implements TokenText: a token is a word of the test."""

    def __init__(self, words: Sequence[str], special: Sequence[str] = ()) -> None:
        self.words = list(words)
        self.special = {self.words.index(word) for word in special}
        self.end_token_ids = frozenset({len(self.words)})

    def piece(self, token: int) -> bytes:
        return self.words[token].encode() if token < len(self.words) else b""

    def is_special(self, token: int) -> bool:
        return token in self.special or token in self.end_token_ids


class Read(NamedTuple):
    """Everything a choice said."""

    content: str
    thought: str
    calls: list[tuple[str, str]]
    reason: FinishReason | None
    tokens: int
    thought_tokens: int
    told: list[bytes]


def read(
    text: str | Sequence[str],
    reading: Reading,
    sampling: SamplingParams | None = None,
    *,
    limit: int = PLENTY,
    certainty: Certainty = "none",
    special: Sequence[str] = (),
) -> Read:
    """A choice whose tokens are the bytes of a text, or words; each is reported."""
    vocabulary = ByteVocabulary() if isinstance(text, str) else Words(list(dict.fromkeys(text)), special)
    tokens = [*text.encode(), END] if isinstance(text, str) else _tokens(text, vocabulary)
    markup = frozenset(vocabulary.special) if isinstance(vocabulary, Words) else frozenset[int]()
    reader = build_reader(reading, certainty)
    choice = Choice(vocabulary, sampling or SamplingParams(), limit, reader=reader, markup=markup)
    deltas: list[AnyDelta] = []
    reason = None
    for token in tokens:
        accepted = choice.accept(token, TokenLogprobs(token, vocabulary.piece(token), -1.0, []))
        assert accepted.deltas[0].token_ids == [token]
        deltas += accepted.deltas
        reason = accepted.reason
        if reason is not None:
            break
    return Read(
        "".join(delta.text for delta in deltas if isinstance(delta, Delta)),
        "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta)),
        _calls(deltas),
        reason,
        choice.tokens,
        choice.reasoning_tokens,
        [told.token for delta in deltas if isinstance(delta, Delta) for told in delta.logprobs],
    )


def _tokens(words: Sequence[str], vocabulary: Words | ByteVocabulary) -> list[int]:
    assert isinstance(vocabulary, Words)
    return [*(vocabulary.words.index(word) for word in words), len(vocabulary.words)]


def _calls(deltas: Sequence[AnyDelta]) -> list[tuple[str, str]]:
    calls: list[tuple[str, str]] = []
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            if delta.call == len(calls):
                assert delta.name is not None
                assert delta.id is not None
                assert delta.id.startswith("call_")
                calls.append((delta.name, ""))
            name, arguments = calls[delta.call]
            calls[delta.call] = (name, arguments + delta.arguments)
    return calls


def test_a_thought_a_text_and_calls_come_apart_and_end_with_tool_calls() -> None:
    said = read(f"<think>hm</think>\n\nI look.\n{CALL}\n{CALL}", BOTH)
    expected = ("get_time", '{"zone": "STOP"}')
    assert said[:4] == ("I look.", "hm", [expected, expected], "tool_calls")


def test_stop_strings_are_looked_for_in_content_alone() -> None:
    stop = SamplingParams(stop=("STOP",))
    assert read(f"<think>STOP</think>ST{CALL}OP", BOTH, stop)[:4] == (
        "STOP",
        "STOP",
        [("get_time", '{"zone": "STOP"}')],
        "tool_calls",
    )
    assert read("<think>STOP</think>one STOP two", BOTH, stop)[:4] == ("one ", "STOP", [], "stop")


def test_a_call_that_is_cut_ends_with_length_and_shows_no_markup() -> None:
    for limit in range(1, len(CALL)):
        said = read(CALL, TOOLS, limit=limit, certainty="whole answer")
        assert said.content == ""
        assert said.reason == "length"
    for limit in range(len("<tool_call>"), len(CALL)):
        assert read(CALL, TOOLS, limit=limit, certainty="from trigger").content == ""
    assert read("<tool", TOOLS, certainty="from trigger").content == "<tool", "it was no call"


def test_what_was_thought_is_counted() -> None:
    assert read(["<think>", "a", "b", "</think>", "c"], BOTH)[4:6] == (6, 3)


def test_markup_of_special_tokens_is_read_although_they_are_hidden() -> None:
    said = read(["<think>", "a", "</think>", "b", "<x>", "c"], BOTH, special=("<think>", "</think>"))
    assert said[:2] == ("b<x>c", "a")


@pytest.mark.parametrize("reading", [Reading(), TOOLS, BOTH])
@given(st.lists(st.sampled_from(["a", "é", " b", "<", "<too", "l", "x<", "\n"]), max_size=12))
def test_every_token_of_shown_text_is_told_of_once(reading: Reading, words: list[str]) -> None:
    text = "".join(words)
    said = read(text, reading)
    assert said.content == text
    assert b"".join(said.told).decode() == text


def test_only_tokens_of_the_answers_text_are_told_of() -> None:
    words = ["<think>", "hm", "</think>", "I", " look", ".", "<tool_call>", *CALL.removeprefix("<tool_call>")]
    said = read([*words, "Done", "!"], BOTH)
    assert said.content == "I look.Done!"
    assert said.told == [b"I", b" look", b".", b"Done", b"!"]


def test_tokens_cut_off_by_a_stop_string_are_not_told_of() -> None:
    said = read(["one", " two", " STO", "P", "three"], Reading(), SamplingParams(stop=("STOP",)))
    assert said.content == "one two "
    assert said.told == [b"one", b" two", b" STO"]


def test_parts_of_a_character_are_told_of_with_it() -> None:
    assert read("é", Reading()).told == ["é".encode()[:1], "é".encode()[1:]]
