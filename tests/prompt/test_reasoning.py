import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.prompt.call_reader import CallReader
from dragoman.prompt.pieces import Content, Piece, Thought
from dragoman.prompt.reasoning import ReasoningReader
from dragoman.prompt.thinking import Thinking
from dragoman.prompt.tool_formats import FORMATS
from tests.support.pieces import call, read, splits

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


def reader(*, begun: bool = False, calls: bool = False) -> ReasoningReader:
    answer = CallReader(FORMATS["hermes"].syntax) if calls else None
    return ReasoningReader(Thinking("<think>", "</think>", begun, None), answer)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", [Thought("Hm."), Content("Yes.")]),
        ("\n<think>a\n\nb</thinking></think>Yes.", [Thought("a\n\nb</thinking>"), Content("Yes.")]),
        ("<think>\n\n</think>\n\nYes.\n", [Content("Yes.\n")]),
        ("<think>Hm.\n", [Thought("Hm.\n")]),
        ("<think>Hm.</thi", [Thought("Hm.</thi")]),
        ("<think>Hm.</think>\n", [Thought("Hm.")]),
        ("Yes, <think>Hm.</think>", [Content("Yes, <think>Hm.</think>")]),
        (" \n<thi", [Content(" \n<thi")]),
        ("<think>a</think>b<think>c</think>", [Thought("a"), Content("b<think>c</think>")]),
    ],
)
def test_a_thought_split_anywhere_reads_the_same(answer: str, expected: list[Piece]) -> None:
    for texts in splits(answer):
        assert read(reader(), *texts) == expected


def test_a_thought_that_the_prompt_has_begun_needs_no_marker() -> None:
    for texts in splits("\nHm.\n</think>\n\nYes."):
        assert read(reader(begun=True), *texts) == [Thought("Hm."), Content("Yes.")]


def test_markers_may_be_any_text() -> None:
    thinking = Thinking("[THINK]", "[/THINK]", begun=False, budget=None)
    assert read(ReasoningReader(thinking), "[THINK]Hm.[/THINK]Yes.") == [Thought("Hm."), Content("Yes.")]


def test_calls_are_read_behind_the_thought_and_not_in_it() -> None:
    made = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    for texts in splits(f"<think>{made}</think>\n{made}"):
        assert read(reader(calls=True), *texts) == [Thought(made), *call(0, "f", "{}")]
    assert read(reader(calls=True), made) == call(0, "f", "{}")


@pytest.mark.parametrize("begun", [False, True])
@given(TEXTS)
def test_the_split_into_pieces_never_changes_what_is_read(begun: bool, texts: list[str]) -> None:
    whole = "".join(texts)
    assert read(reader(begun=begun, calls=True), *texts) == read(reader(begun=begun, calls=True), whole)
    assert read(reader(begun=begun), *whole) == read(reader(begun=begun), whole)


@given(st.text())
def test_an_answer_without_a_thought_comes_out_as_it_went_in(text: str) -> None:
    assert read(reader(), *text) == ([Content(text)] if text else [])


@given(TEXTS)
def test_nothing_but_markers_and_their_whitespace_is_left_out(texts: list[str]) -> None:
    text = "".join(texts)
    pieces = read(reader(), text)
    thought = "".join(piece.text for piece in pieces if isinstance(piece, Thought))
    content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
    markers = rf"(?:\s*<think>\s*{re.escape(thought)}\s*(?:</think>\s*)?)?"
    assert re.fullmatch(markers + re.escape(content), text)


def test_a_reader_tells_where_it_is_and_what_it_holds_back() -> None:
    answer = reader(calls=True)
    assert (answer.in_thought, answer.in_content) == (False, True)
    answer.feed("\n<thi")
    assert answer.held == 5
    answer.feed("nk>Hm.")
    assert (answer.in_thought, answer.in_content, answer.held) == (True, False, 0)
    answer.feed("</th")
    assert (answer.in_thought, answer.held) == (True, 0)
    answer.feed("ink>\n")
    assert (answer.in_thought, answer.in_content, answer.held) == (False, True, 0)
    answer.feed("Yes. <tool")
    assert (answer.in_content, answer.held) == (True, 6)
