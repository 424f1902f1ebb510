"""Text that is an element of its own, with reasoning before it and calls after it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.request import ToolCall
from dragoman.output.markup import ToolFormatName
from dragoman.output.parts import ContentText, OutputPart, ReasoningText
from dragoman.output.reasoning_parser import ReasoningSpec
from dragoman.output.text_element import TextElement, TextElementParser
from dragoman.prompt.output_parser import OutputParserSpec, build_parser
from dragoman.prompt.tool_formats import FORMATS
from dragoman.prompt.tool_formats.format import write_calls
from tests.support.output_parts import parse, splits, tool_call_parts

ELEMENT = TextElement(opening=" <text>", closing="</text><go>", end="</text>")
CALL = ToolCall("a1b2c3d4e5", "f", '{"a": "b"}')


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("<text>Hi</text>", "Hi"),
        (" <text> Hi\n</text>", " Hi\n"),
        ("\n<text>Hi", "Hi"),
        ("Hi</text>", "Hi</text>"),
        ("Hi <text>", "Hi <text>"),
        ("<text>a</tex", "a</tex"),
        ("<text>a</text><g", "a"),
        ("<text>a</text>b", "ab"),
        ("<text>a</text><go>", "a"),
        ("<text>a</text><go> <text>b</text>", "ab"),
        (" <tex", " <tex"),
        (" <ten you?", " <ten you?"),
        ("<text></text>", ""),
    ],
)
def test_what_is_around_a_text_is_dropped(answer: str, text: str) -> None:
    for texts in splits(answer):
        assert parse(TextElementParser(ELEMENT), *texts) == ([ContentText(text)] if text else [])


def test_a_text_that_the_prompt_has_opened_is_read() -> None:
    element = TextElement(opening="<text>", closing="</text><go>", opened_by_prompt=True)
    for texts in splits("<text> you?</text><go>"):
        assert parse(TextElementParser(element), *texts) == [ContentText("<text> you?")]


@given(st.text() | st.lists(st.sampled_from([" <text>", "</text>", "<go>", "<", "a", "</te", " ", "xt>"])).map("".join))
def test_the_split_changes_nothing_and_held_characters_are_counted(text: str) -> None:
    parser = TextElementParser(ELEMENT)
    shown = 0
    for position, character in enumerate(text):
        shown += sum(len(part.text) for part in parser.feed(character) if isinstance(part, ContentText))
        assert parser.in_content
        assert shown + parser.held_characters <= position + 1
    parser.finish()
    assert parser.held_characters == 0
    assert parse(TextElementParser(ELEMENT), *text) == parse(TextElementParser(ELEMENT), text)


SOLAR = (
    ReasoningSpec("<|think|>", "<|end|><|begin|>assistant", opened_by_prompt=False, budget_tokens=None),
    TextElement(opening="<|content|>", closing="<|end|><|begin|>assistant", end="<|end|>"),
)
MUSE = (
    ReasoningSpec(" to=self<|message|>", "<|eom|><|start|>assistant", opened_by_prompt=False, budget_tokens=None),
    TextElement(opening=" to=user<|message|>", closing="<|eom|><|start|>assistant"),
)
KIMI = (
    ReasoningSpec("<|open|>think<|sep|>", "<|close|>think<|sep|>", opened_by_prompt=False, budget_tokens=None),
    TextElement(
        opening="<|open|>response<|sep|>",
        closing="<|close|>response<|sep|>",
        end="<|close|>response<|sep|><|close|>message<|sep|>",
        before_calls=True,
    ),
)


@pytest.mark.parametrize(
    ("name", "reasoning", "element"), [("solar", *SOLAR), ("muse_glimmer", *MUSE), ("kimi_k3", *KIMI)]
)
def test_reasoning_text_and_calls_are_told_apart_at_every_split(
    name: ToolFormatName, reasoning: ReasoningSpec, element: TextElement
) -> None:
    spec = OutputParserSpec(name, reasoning, text_element=element)
    thoughts = f"{reasoning.opening}Hm, to=user.{reasoning.closing}"
    text = f"{element.opening}So. to=f {element.closing}"
    calls = write_calls(FORMATS[name].markup, [CALL, CALL])
    first, second = tool_call_parts(0, "f", CALL.arguments), tool_call_parts(1, "f", CALL.arguments)
    expected: list[OutputPart] = [ReasoningText("Hm, to=user."), ContentText("So. to=f "), *first, *second]
    answer = thoughts + text + calls
    for position in range(len(answer)):
        parser = build_parser(spec)
        assert parser is not None
        assert parse(parser, answer[:position], answer[position:]) == expected
    empty = f"{element.opening}{element.closing}" if element.before_calls else ""
    for shorter, parts in (
        (text, expected[1:2]),
        (f"{thoughts}{element.opening}So. to=f {element.end}", expected[:2]),
        (thoughts + empty + calls, [expected[0], *expected[2:]]),
    ):
        parser = build_parser(spec)
        assert parser is not None
        assert parse(parser, *shorter) == parts


@pytest.mark.parametrize(
    ("name", "reasoning", "element"), [("solar", *SOLAR), ("muse_glimmer", *MUSE), ("kimi_k3", *KIMI)]
)
def test_an_answer_that_is_cut_within_a_call_shows_no_markup(
    name: ToolFormatName, reasoning: ReasoningSpec, element: TextElement
) -> None:
    markup = FORMATS[name].markup
    spec = OutputParserSpec(name, reasoning, text_element=element)
    text = f"{element.opening}So."
    answer = f"{text}{element.closing}{write_calls(markup, [CALL])}"
    for end in range(len(text) + len(element.closing) + len(markup.trigger), len(answer) + 1):
        parser = build_parser(spec, "from trigger")
        assert parser is not None
        parts = parse(parser, *answer[:end])
        assert [part for part in parts if isinstance(part, ContentText)] == [ContentText("So.")]
