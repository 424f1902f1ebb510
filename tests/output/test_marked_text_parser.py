import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.output.marked_text_parser import MarkedTextParser, TextMarkers
from dragoman.output.parts import ContentText
from dragoman.output.reasoning_parser import ReasoningParser, ReasoningSpec
from dragoman.output.tool_call_parser import ToolCallParser
from dragoman.prompt.tool_formats import FORMATS
from tests.support.output_parts import parse, splits, tool_call_parts

MARKERS = TextMarkers("<answer>", "</answer>")
CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("<answer>Hi</answer>", "Hi"),
        ("\n<answer> Hi\n</answer>", " Hi\n"),
        ("<answer>Hi", "Hi"),
        ("Hi</answer>", "Hi"),
        ("Hi <answer>", "Hi <answer>"),
        ("<answer>a </answe", "a </answe"),
        (" <answ", " <answ"),
        (" <ans you?", " <ans you?"),
        ("<answer></answer>", ""),
        ("a</ans</answer>wer>", "a</answer>"),
    ],
)
def test_markers_around_a_text_are_dropped(answer: str, text: str) -> None:
    for texts in splits(answer):
        assert parse(MarkedTextParser(MARKERS), *texts) == ([ContentText(text)] if text else [])


def test_reasoning_stands_before_and_calls_stand_within_or_after() -> None:
    spec = ReasoningSpec("<think>", "</think>", opened_by_prompt=False, budget_tokens=None)
    for answer in (f"<answer>So.{CALL}</answer>", f"<answer>So.</answer>\n{CALL}"):
        calls = ToolCallParser(FORMATS["hermes"].syntax)
        parser = ReasoningParser(spec, MarkedTextParser(MARKERS, calls))
        parts = parse(parser, *f"<think>Hm.</think>{answer}")
        assert parts[1:] == [ContentText("So."), *tool_call_parts(0, "f", "{}")]


@given(st.text() | st.lists(st.sampled_from(["<answer>", "</answer>", "<", "a", "</answ", " ", "er>"])).map("".join))
def test_the_split_changes_nothing_and_held_characters_are_counted(text: str) -> None:
    parser = MarkedTextParser(MARKERS)
    shown = 0
    for position, character in enumerate(text):
        shown += sum(len(part.text) for part in parser.feed(character) if isinstance(part, ContentText))
        seen = text[: position + 1]
        leading = len(seen) - len(seen.lstrip(" \t\r\n"))  # held until what follows is no opening marker
        assert parser.held_characters < len(MARKERS.closing) + leading
        assert parser.in_content
        assert shown <= position + 1
    parser.finish()
    assert parser.held_characters == 0
    assert parse(MarkedTextParser(MARKERS), *text) == parse(MarkedTextParser(MARKERS), text)
