import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.output.parts import ContentText, OutputPart, ReasoningText
from dragoman.output.reasoning_parser import ReasoningParser, ReasoningSpec
from dragoman.output.tool_call_parser import ToolCallParser
from dragoman.prompt.tool_formats import FORMATS
from tests.support.output_parts import parse, splits, tool_call_parts

FRAGMENTS = [
    "<think>",
    "</think>",
    "<thi",
    "</",
    "\n\n",
    " ",
    "Hm.",
    "<tool_call>",
    '{"name": "f", "arguments": {}}',
    "é",
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=10)


def new_parser(*, opened: bool = False, calls: bool = False) -> ReasoningParser:
    answer = ToolCallParser(FORMATS["hermes"].syntax) if calls else None
    return ReasoningParser(ReasoningSpec("<think>", "</think>", opened_by_prompt=opened, budget_tokens=None), answer)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", [ReasoningText("Hm."), ContentText("Yes.")]),
        ("\n<think>a\n\nb</thinking></think>Yes.", [ReasoningText("a\n\nb</thinking>"), ContentText("Yes.")]),
        ("<think>\n\n</think>\n\nYes.\n", [ContentText("Yes.\n")]),
        ("<think>Hm.\n", [ReasoningText("Hm.\n")]),
        ("<think>Hm.</thi", [ReasoningText("Hm.</thi")]),
        ("<think>Hm.</think>\n", [ReasoningText("Hm.")]),
        ("Yes, <think>Hm.</think>", [ContentText("Yes, <think>Hm.</think>")]),
        (" \n<thi", [ContentText(" \n<thi")]),
        ("<think>a</think>b<think>c</think>", [ReasoningText("a"), ContentText("b<think>c</think>")]),
    ],
)
def test_reasoning_split_anywhere_is_parsed_the_same(answer: str, expected: list[OutputPart]) -> None:
    for texts in splits(answer):
        assert parse(new_parser(), *texts) == expected


def test_reasoning_opened_by_the_prompt_needs_no_marker() -> None:
    for texts in splits("\nHm.\n</think>\n\nYes."):
        assert parse(new_parser(opened=True), *texts) == [ReasoningText("Hm."), ContentText("Yes.")]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("</think>Yes.", [ContentText("Yes.")]),
        ("\n</think>\nYes.</think>", [ContentText("Yes.</think>")]),
        ("<think>Hm.</think>Yes.", [ReasoningText("Hm."), ContentText("Yes.")]),
        ("Yes.</think>", [ContentText("Yes.</think>")]),
        ("</thi", [ContentText("</thi")]),
    ],
)
def test_the_closing_marker_may_stand_alone_before_an_answer_without_reasoning(
    answer: str, expected: list[OutputPart]
) -> None:
    spec = ReasoningSpec("<think>", "</think>", opened_by_prompt=False, budget_tokens=None, closes_alone=True)
    for texts in splits(answer):
        assert parse(ReasoningParser(spec), *texts) == expected
    assert parse(new_parser(), "</think>Yes.") == [ContentText("</think>Yes.")]


def test_markers_may_be_any_text() -> None:
    spec = ReasoningSpec("[THINK]", "[/THINK]", opened_by_prompt=False, budget_tokens=None)
    assert parse(ReasoningParser(spec), "[THINK]Hm.[/THINK]Yes.") == [ReasoningText("Hm."), ContentText("Yes.")]


def test_calls_are_parsed_after_the_reasoning_and_not_within_it() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    for texts in splits(f"<think>{call}</think>\n{call}"):
        assert parse(new_parser(calls=True), *texts) == [ReasoningText(call), *tool_call_parts(0, "f", "{}")]
    assert parse(new_parser(calls=True), call) == tool_call_parts(0, "f", "{}")


@pytest.mark.parametrize("opened", [False, True])
@given(TEXTS)
def test_the_split_into_chunks_never_changes_the_result(opened: bool, texts: list[str]) -> None:
    whole = "".join(texts)
    assert parse(new_parser(opened=opened, calls=True), *texts) == parse(new_parser(opened=opened, calls=True), whole)
    assert parse(new_parser(opened=opened), *whole) == parse(new_parser(opened=opened), whole)


@given(st.text())
def test_an_answer_without_reasoning_is_unchanged(text: str) -> None:
    assert parse(new_parser(), *text) == ([ContentText(text)] if text else [])


@given(TEXTS)
def test_only_markers_and_their_whitespace_are_removed(texts: list[str]) -> None:
    text = "".join(texts)
    parts = parse(new_parser(), text)
    reasoning = "".join(part.text for part in parts if isinstance(part, ReasoningText))
    content = "".join(part.text for part in parts if isinstance(part, ContentText))
    markers = rf"(?:\s*<think>\s*{re.escape(reasoning)}\s*(?:</think>\s*)?)?"
    assert re.fullmatch(markers + re.escape(content), text)


def test_a_parser_reports_its_state_and_the_characters_it_holds_back() -> None:
    parser = new_parser(calls=True)
    assert (parser.in_reasoning, parser.in_content) == (False, True)
    parser.feed("\n<thi")
    assert parser.held_characters == 5
    parser.feed("nk>Hm.")
    assert (parser.in_reasoning, parser.in_content, parser.held_characters) == (True, False, 0)
    parser.feed("</th")
    assert (parser.in_reasoning, parser.held_characters) == (True, 0)
    parser.feed("ink>\n")
    assert (parser.in_reasoning, parser.in_content, parser.held_characters) == (False, True, 0)
    parser.feed("Yes. <tool")
    assert (parser.in_content, parser.held_characters) == (True, 6)
