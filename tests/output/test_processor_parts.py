"""The processor on answers with reasoning, tool calls and log-probabilities."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.events import AnyDelta, Delta, FinishReason, ReasoningDelta, TokenLogprobs, ToolCallDelta
from dragoman.core.request import SamplingParams
from dragoman.engines.echo.engine import END, ByteVocabulary
from dragoman.output.processor import OutputProcessor
from dragoman.output.reasoning_parser import ReasoningSpec
from dragoman.output.tool_call_parser import ToolCallMode
from dragoman.prompt.output_parser import OutputParserSpec, build_parser
from dragoman.prompt.reasoning import DEFAULT_MARKERS

UNREACHED_LIMIT = 1000
THINKING = ReasoningSpec(DEFAULT_MARKERS.opening, DEFAULT_MARKERS.closing, opened_by_prompt=False, budget_tokens=None)
TOOLS = OutputParserSpec("hermes")
BOTH = OutputParserSpec("hermes", THINKING)

CALL = '<tool_call>\n{"name": "get_time", "arguments": {"zone": "STOP"}}\n</tool_call>'


class SpecialWordVocabulary:
    """Implements DetokenizerVocabulary: a token is one of the given words."""

    def __init__(self, words: Sequence[str], special: Sequence[str] = ()) -> None:
        self.words = list(words)
        self.special = {self.words.index(word) for word in special}
        self.end_token_ids = frozenset({len(self.words)})

    def piece(self, token: int) -> bytes:
        return self.words[token].encode() if token < len(self.words) else b""

    def is_special(self, token: int) -> bool:
        return token in self.special or token in self.end_token_ids


class ProcessedOutput(NamedTuple):
    """Everything that a choice returned."""

    content: str
    reasoning: str
    calls: list[tuple[str, str]]
    reason: FinishReason | None
    tokens: int
    reasoning_tokens: int
    logprob_tokens: list[bytes]


def process(
    text: str | Sequence[str],
    spec: OutputParserSpec,
    sampling: SamplingParams | None = None,
    *,
    limit: int = UNREACHED_LIMIT,
    mode: ToolCallMode = "none",
    special: Sequence[str] = (),
) -> ProcessedOutput:
    """Process tokens that are the bytes of a text, or words, with log-probabilities."""
    vocabulary = (
        ByteVocabulary() if isinstance(text, str) else SpecialWordVocabulary(list(dict.fromkeys(text)), special)
    )
    tokens = [*text.encode(), END] if isinstance(text, str) else _tokens(text, vocabulary)
    markup = frozenset(vocabulary.special) if isinstance(vocabulary, SpecialWordVocabulary) else frozenset[int]()
    parser = build_parser(spec, mode)
    processor = OutputProcessor(vocabulary, sampling or SamplingParams(), limit, parser=parser, markup=markup)
    deltas: list[AnyDelta] = []
    reason = None
    for token in tokens:
        accepted = processor.accept(token, TokenLogprobs(token, vocabulary.piece(token), -1.0, []))
        assert accepted.deltas[0].token_ids == [token]
        deltas += accepted.deltas
        reason = accepted.reason
        if reason is not None:
            break
    return ProcessedOutput(
        content="".join(delta.text for delta in deltas if isinstance(delta, Delta)),
        reasoning="".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta)),
        calls=_calls(deltas),
        reason=reason,
        tokens=processor.tokens,
        reasoning_tokens=processor.reasoning_tokens,
        logprob_tokens=[logprobs.token for delta in deltas if isinstance(delta, Delta) for logprobs in delta.logprobs],
    )


def _tokens(words: Sequence[str], vocabulary: SpecialWordVocabulary | ByteVocabulary) -> list[int]:
    assert isinstance(vocabulary, SpecialWordVocabulary)
    return [*(vocabulary.words.index(word) for word in words), len(vocabulary.words)]


def _calls(deltas: Sequence[AnyDelta]) -> list[tuple[str, str]]:
    calls: list[tuple[str, str]] = []
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            if delta.call_index == len(calls):
                assert delta.name is not None
                assert delta.id is not None
                assert delta.id.startswith("call_")
                calls.append((delta.name, ""))
            name, arguments = calls[delta.call_index]
            calls[delta.call_index] = (name, arguments + delta.arguments)
    return calls


def test_reasoning_content_and_calls_are_separated_and_end_with_tool_calls() -> None:
    output = process(f"<think>hm</think>\n\nI look.\n{CALL}\n{CALL}", BOTH)
    expected = ("get_time", '{"zone": "STOP"}')
    assert output[:4] == ("I look.", "hm", [expected, expected], "tool_calls")


def test_stop_strings_are_matched_in_content_only() -> None:
    stop = SamplingParams(stop=("STOP",))
    assert process(f"<think>STOP</think>ST{CALL}OP", BOTH, stop)[:4] == (
        "STOP",
        "STOP",
        [("get_time", '{"zone": "STOP"}')],
        "tool_calls",
    )
    assert process("<think>STOP</think>one STOP two", BOTH, stop)[:4] == ("one ", "STOP", [], "stop")


def test_a_call_that_is_cut_ends_with_length_and_shows_no_markup() -> None:
    for limit in range(1, len(CALL)):
        output = process(CALL, TOOLS, limit=limit, mode="whole answer")
        assert output.content == ""
        assert output.reason == "length"
    for limit in range(len("<tool_call>"), len(CALL)):
        assert process(CALL, TOOLS, limit=limit, mode="from trigger").content == ""
    assert process("<tool", TOOLS, mode="from trigger").content == "<tool", "it was not a call"


def test_reasoning_tokens_are_counted() -> None:
    assert process(["<think>", "a", "b", "</think>", "c"], BOTH)[4:6] == (6, 3)


def test_markup_of_special_tokens_is_parsed_although_they_are_hidden() -> None:
    output = process(["<think>", "a", "</think>", "b", "<x>", "c"], BOTH, special=("<think>", "</think>"))
    assert output[:2] == ("b<x>c", "a")


def test_special_tokens_of_markup_are_read_without_spaces_between_them() -> None:
    special = ["<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"]
    words = ["<tool_call>", "f", "<arg_key>", "a", "</arg_key>", "<arg_value>", "1", "</arg_value>", "</tool_call>"]
    result = process(words, OutputParserSpec("glm47"), mode="whole answer", special=special)
    assert (result.content, result.calls) == ("", [("f", '{"a": 1}')])


def test_the_id_that_a_model_writes_is_the_calls_unless_it_is_taken() -> None:
    text = "".join(f"[TOOL_CALLS]f[CALL_ID]{call_id}[ARGS]{{}}" for call_id in ("aB3dE6gH9", "aB3dE6gH9", "x"))
    parser = build_parser(OutputParserSpec("mistral_call_id"))
    processor = OutputProcessor(ByteVocabulary(), SamplingParams(), UNREACHED_LIMIT, parser=parser)
    deltas = [delta for token in [*text.encode(), END] for delta in processor.accept(token).deltas]
    ids = [delta.id for delta in deltas if isinstance(delta, ToolCallDelta) and delta.id is not None]
    assert (ids[0], ids[2]) == ("aB3dE6gH9", "x")
    assert ids[1].startswith("call_")


@pytest.mark.parametrize("spec", [OutputParserSpec(), TOOLS, BOTH])
@given(st.lists(st.sampled_from(["a", "é", " b", "<", "<too", "l", "x<", "\n"]), max_size=12))
def test_every_token_of_shown_text_has_its_logprobs_reported_once(spec: OutputParserSpec, words: list[str]) -> None:
    text = "".join(words)
    output = process(text, spec)
    assert output.content == text
    assert b"".join(output.logprob_tokens).decode() == text


def test_logprobs_are_reported_for_content_tokens_only() -> None:
    words = ["<think>", "hm", "</think>", "I", " look", ".", "<tool_call>", *CALL.removeprefix("<tool_call>")]
    output = process([*words, "Done", "!"], BOTH)
    assert output.content == "I look.Done!"
    assert output.logprob_tokens == [b"I", b" look", b".", b"Done", b"!"]


def test_logprobs_of_tokens_cut_off_by_a_stop_string_are_not_reported() -> None:
    output = process(["one", " two", " STO", "P", "three"], OutputParserSpec(), SamplingParams(stop=("STOP",)))
    assert output.content == "one two "
    assert output.logprob_tokens == [b"one", b" two", b" STO"]


def test_logprobs_of_partial_characters_are_reported_with_the_character() -> None:
    assert process("é", OutputParserSpec()).logprob_tokens == ["é".encode()[:1], "é".encode()[1:]]
