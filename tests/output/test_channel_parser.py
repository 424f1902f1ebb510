"""Answers of gpt-oss, whose messages have channels."""

from random import Random
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.request import AnswerFormat, JsonObjectFormat, Tool, ToolOptions
from dragoman.output.channel_parser import CHANNEL_TOKENS, ChannelParser
from dragoman.output.grammar import build_grammar
from dragoman.output.parts import ContentText, OutputPart, ReasoningText, ToolCallStart
from dragoman.prompt.output_parser import OutputParserSpec, build_parser
from dragoman.prompt.reasoning import TemplateReasoning
from dragoman.prompt.sandbox import SandboxedTemplate
from dragoman.prompt.tool_formats import FORMATS
from tests.support.grammars import allows, generate
from tests.support.output_parts import parse, splits, tool_call_parts

ANALYSIS = "<|channel|>analysis<|message|>Hm.<|end|>"
CALL = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Oslo"}'
FINAL = "<|channel|>final<|message|>It rains."
TURN = "<|start|>assistant"
REASONING = TemplateReasoning(SandboxedTemplate("<|channel|>final<|message|>"), is_supported=False).spec(
    None, opened_by_prompt=False
)
TOOLS = ToolOptions((Tool("get_weather", parameters={"type": "object", "properties": {"city": {"const": "Oslo"}}}),))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (FINAL, [ContentText("It rains.")]),
        (f"{TURN}{FINAL}<|return|>", [ContentText("It rains.")]),
        (CALL, tool_call_parts(0, "get_weather", '{"city": "Oslo"}')),
        (
            f"<|channel|>commentary<|message|>Let me look.<|end|>{TURN}{CALL}<|call|>",
            [ContentText("Let me look."), *tool_call_parts(0, "get_weather", '{"city": "Oslo"}')],
        ),
        (
            " to=functions.get_weather<|channel|>commentary json<|message|>{}<|call|>",
            tool_call_parts(0, "get_weather", "{}"),
        ),
        (f"{ANALYSIS}{TURN}{FINAL}", [ReasoningText("Hm."), ContentText("It rains.")]),
        ("It rains, <b>a lot</b>.", [ContentText("It rains, <b>a lot</b>.")]),
        ("<|channel|>final", []),
        ("", []),
    ],
)
def test_an_answer_split_anywhere_is_parsed_the_same(answer: str, expected: list[OutputPart]) -> None:
    for texts in splits(answer):
        assert parse(ChannelParser(), *texts) == expected


def test_reasoning_comes_before_the_other_messages() -> None:
    for texts in splits(f"{ANALYSIS}{TURN}{CALL}"):
        parser = build_parser(OutputParserSpec("harmony", REASONING, in_channels=True))
        assert parser is not None
        assert parse(parser, *texts) == [ReasoningText("Hm."), *tool_call_parts(0, "get_weather", '{"city": "Oslo"}')]


@given(st.lists(st.sampled_from([*CHANNEL_TOKENS, "analysis", "final", " to=functions.f", "text", "{}", "<|"])))
def test_the_split_into_chunks_never_changes_the_result(texts: list[str]) -> None:
    whole = "".join(texts)
    assert parse(ChannelParser(), *whole) == parse(ChannelParser(), whole) == parse(ChannelParser(), *texts)


@pytest.mark.parametrize("characters", [290, 299, 300, 301])
def test_the_split_of_a_header_of_the_greatest_length_never_changes_the_result(characters: int) -> None:
    answer = f"{'<|channel|>final'.ljust(characters)}<|message|>It rains."
    expected = "It rains." if characters <= 300 else answer
    assert parse(ChannelParser(), *answer) == parse(ChannelParser(), answer) == [ContentText(expected)]


def grammar(tools: ToolOptions | None, response_format: AnswerFormat | None = None) -> str:
    text = build_grammar(response_format, tools, FORMATS["harmony"].markup, lambda _: None).text
    assert text is not None
    return text


def chosen(choice: Literal["auto", "required"]) -> ToolOptions:
    return msgspec.structs.replace(TOOLS, choice=choice)


@pytest.mark.parametrize(
    "before",
    ["", TURN, f"<|channel|>analysis<|message|>{TURN}", f"{TURN}<|channel|>commentary<|message|>I look.<|end|>{TURN}"],
)
def test_an_answer_is_text_in_the_final_channel_or_an_enforced_call(before: str) -> None:
    auto, required = grammar(chosen("auto")), grammar(chosen("required"))
    assert allows(auto, before + FINAL)
    assert not allows(required, before + FINAL)
    for enforced in (auto, required):
        assert allows(enforced, before + CALL)
        assert not allows(enforced, (before + CALL).replace("Oslo", "Bonn"))
        assert not allows(enforced, before + CALL + TURN + CALL)
    assert not allows(auto, before + "It rains.")


def test_a_format_holds_in_the_final_channel() -> None:
    for tools in (None, chosen("auto")):
        enforced = grammar(tools, JsonObjectFormat())
        assert allows(enforced, '<|channel|>final<|message|>{"a": 1}')
        assert not allows(enforced, FINAL)
    assert build_grammar(None, None, FORMATS["harmony"].markup, lambda _: None).text is None


@given(st.integers(0, 2**32), st.sampled_from(["auto", "required"]))
def test_what_is_enforced_is_what_is_parsed(seed: int, choice: Any) -> None:
    text = generate(grammar(chosen(choice)), Random(seed), 200)
    if text is not None:
        # The grammar pauses within reasoning, so its text has only the header.
        parts = parse(ChannelParser(), *text.replace("<|channel|>analysis<|message|>", ANALYSIS, 1))
        assert choice == "auto" or [part.name for part in parts if isinstance(part, ToolCallStart)] == ["get_weather"]
