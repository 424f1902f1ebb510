"""White space that is held, since markup may follow it: no more than a bound, whatever an answer consists of."""

from collections.abc import Callable

import pytest

from dragoman.output.marked_text_parser import MarkedTextParser, TextMarkers
from dragoman.output.parts import ContentText, OutputParser, ReasoningText
from dragoman.output.reasoning_parser import ReasoningParser, ReasoningSpec
from dragoman.output.scanning import MAX_HELD_WHITESPACE
from dragoman.output.tool_call_parser import ToolCallParser
from dragoman.prompt.tool_formats import FORMATS
from tests.support.output_parts import parse

_LONG = " \n" * MAX_HELD_WHITESPACE
_SPEC = ReasoningSpec(opening="<think>", closing="</think>", opened_by_prompt=False, budget_tokens=None)

PARSERS: dict[str, Callable[[], OutputParser]] = {
    "calls": lambda: ToolCallParser(FORMATS["hermes"].syntax),
    "reasoning": lambda: ReasoningParser(_SPEC),
    "markers": lambda: MarkedTextParser(TextMarkers("<answer>", "</answer>")),
}
CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
TEXTS = [_LONG, f"<think>a{_LONG}", f"<think>a{_LONG}</think>b", f"a{_LONG}{CALL}", f"{_LONG}<answer>a</answer>"]


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("text", TEXTS, ids=["space", "reasoning", "after reasoning", "call", "answer"])
def test_no_more_is_held_and_the_split_into_chunks_changes_nothing(name: str, text: str) -> None:
    parser = PARSERS[name]()
    emitted = 0
    for begin in range(0, len(text), 3):
        chunk = text[begin : begin + 3]
        emitted += sum(len(part.text) for part in parser.feed(chunk) if isinstance(part, ContentText | ReasoningText))
        assert parser.in_reasoning or parser.held_characters <= MAX_HELD_WHITESPACE + len(CALL)
    assert emitted >= MAX_HELD_WHITESPACE - len(CALL)
    whole = parse(PARSERS[name](), text)
    assert parse(PARSERS[name](), *text) == whole
