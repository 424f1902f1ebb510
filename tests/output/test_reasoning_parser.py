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


def new_parser(*, begun: bool = False, calls: bool = False) -> ReasoningParser:
    answer = ToolCallParser(FORMATS["hermes"].syntax) if calls else None
    return ReasoningParser(ReasoningSpec("<think>", "</think>", begun, None), answer)


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
def test_a_thought_split_anywhere_reads_the_same(answer: str, expected: list[OutputPart]) -> None:
    for texts in splits(answer):
        assert parse(new_parser(), *texts) == expected


def test_reasoning_opened_by_the_prompt_needs_no_marker() -> None:
    for texts in splits("\nHm.\n</think>\n\nYes."):
        assert parse(new_parser(begun=True), *texts) == [ReasoningText("Hm."), ContentText("Yes.")]


def test_markers_may_be_any_text() -> None:
    thinking = ReasoningSpec("[THINK]", "[/THINK]", opened_by_prompt=False, budget_tokens=None)
    assert parse(ReasoningParser(thinking), "[THINK]Hm.[/THINK]Yes.") == [ReasoningText("Hm."), ContentText("Yes.")]


def test_calls_are_parsed_after_the_reasoning_and_not_within_it() -> None:
    made = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    for texts in splits(f"<think>{made}</think>\n{made}"):
        assert parse(new_parser(calls=True), *texts) == [ReasoningText(made), *tool_call_parts(0, "f", "{}")]
    assert parse(new_parser(calls=True), made) == tool_call_parts(0, "f", "{}")


@pytest.mark.parametrize("begun", [False, True])
@given(TEXTS)
def test_the_split_into_pieces_never_changes_what_is_read(begun: bool, texts: list[str]) -> None:
    whole = "".join(texts)
    assert parse(new_parser(begun=begun, calls=True), *texts) == parse(new_parser(begun=begun, calls=True), whole)
    assert parse(new_parser(begun=begun), *whole) == parse(new_parser(begun=begun), whole)


@given(st.text())
def test_an_answer_without_a_thought_comes_out_as_it_went_in(text: str) -> None:
    assert parse(new_parser(), *text) == ([ContentText(text)] if text else [])


@given(TEXTS)
def test_nothing_but_markers_and_their_whitespace_is_left_out(texts: list[str]) -> None:
    text = "".join(texts)
    pieces = parse(new_parser(), text)
    thought = "".join(piece.text for piece in pieces if isinstance(piece, ReasoningText))
    content = "".join(piece.text for piece in pieces if isinstance(piece, ContentText))
    markers = rf"(?:\s*<think>\s*{re.escape(thought)}\s*(?:</think>\s*)?)?"
    assert re.fullmatch(markers + re.escape(content), text)


def test_a_parser_reports_its_state_and_the_characters_it_holds_back() -> None:
    answer = new_parser(calls=True)
    assert (answer.in_reasoning, answer.in_content) == (False, True)
    answer.feed("\n<thi")
    assert answer.held_characters == 5
    answer.feed("nk>Hm.")
    assert (answer.in_reasoning, answer.in_content, answer.held_characters) == (True, False, 0)
    answer.feed("</th")
    assert (answer.in_reasoning, answer.held_characters) == (True, 0)
    answer.feed("ink>\n")
    assert (answer.in_reasoning, answer.in_content, answer.held_characters) == (False, True, 0)
    answer.feed("Yes. <tool")
    assert (answer.in_content, answer.held_characters) == (True, 6)
