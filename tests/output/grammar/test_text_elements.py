"""Grammars of answers whose text is in an element: what is enforced is what is parsed."""

import itertools
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.request import JsonSchemaFormat, Tool, ToolOptions
from dragoman.output.grammar import build_grammar
from dragoman.output.markup import ToolFormatName
from dragoman.output.parts import ContentText, OutputPart, ReasoningText, ToolCallArguments, ToolCallStart
from dragoman.prompt.output_parser import OutputParserSpec, build_parser
from dragoman.prompt.reasoning import find_markers, find_text_element
from dragoman.prompt.tool_formats import FORMATS
from tests.support.grammars import SPECIAL, generate, tokens_of, validation_errors
from tests.support.output_parts import parse

HINTS: dict[ToolFormatName, str] = {
    "solar": "<|begin|>assistant<|think|> <|begin|>assistant<|content|>",
    "muse_glimmer": "assistant to=self<|message|>",
    "kimi_k3": "open_tag('think') open_tag('response')",
}
"""Formats whose models have text in an element → texts of their templates that show it."""

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 5}, "days": {"enum": [1, 2]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = ToolOptions((Tool("get_weather", parameters=WEATHER), Tool("get-time")))
FORMAT = JsonSchemaFormat(WEATHER, strict=True)


@pytest.mark.parametrize("name", HINTS)
@settings(max_examples=15)
@given(
    choice=st.sampled_from(["auto", "required", "named"]),
    several=st.booleans(),
    has_format=st.booleans(),
    opened=st.booleans(),
    has_special_tokens=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_what_is_enforced_is_what_is_parsed(
    name: ToolFormatName,
    choice: str,
    several: bool,
    has_format: bool,
    opened: bool,
    has_special_tokens: bool,
    seed: int,
) -> None:
    element = find_text_element(HINTS[name])
    assert element is not None
    element = msgspec.structs.replace(element, opened_by_prompt=opened)
    options = msgspec.structs.replace(
        TOOLS, choice=choice, name="get_weather" if choice == "named" else None, parallel=several
    )
    token = SPECIAL.get if has_special_tokens else lambda _: None
    markup = FORMATS[name].markup
    grammar = build_grammar(FORMAT if has_format else None, options, markup, token, element=element)
    assert grammar.text is not None
    text = generate(grammar.text, Random(seed), 400)
    if text is None:
        return
    parser = build_parser(OutputParserSpec(name, text_element=element), "whole answer", grammar.strings)
    assert parser is not None
    parts = parse(parser, *text)
    calls = [part.name for part in parts if isinstance(part, ToolCallStart)]
    content = "".join(part.text for part in parts if isinstance(part, ContentText))
    assert len(calls) <= (10**9 if several and choice != "named" else 1)
    assert set(calls) <= ({"get_weather"} if choice == "named" else {"get_weather", "get-time"})
    for start, part in itertools.pairwise(parts):
        if isinstance(start, ToolCallStart) and isinstance(part, ToolCallArguments):
            assert part.text == "{}" if start.name == "get-time" else validation_errors(part.text, WEATHER) == []
    assert not (content and choice != "auto")
    assert choice == "auto" or calls
    if has_format:
        assert bool(content) is not bool(calls)
        assert not content or validation_errors(content, WEATHER) == []


@pytest.mark.parametrize("name", HINTS)
@pytest.mark.parametrize("has_special_tokens", [False, True])
def test_reasoning_text_and_calls_may_follow_each_other(name: ToolFormatName, has_special_tokens: bool) -> None:
    element, markers = find_text_element(HINTS[name]), find_markers(HINTS[name])
    assert element is not None
    assert markers is not None
    token = SPECIAL.get if has_special_tokens else lambda _: None
    options = msgspec.structs.replace(TOOLS, allowed=("get-time",))
    grammar = build_grammar(None, options, FORMATS[name].markup, token, element=element, reasoning=markers.opening)
    assert grammar.text is not None
    # The engine leaves the reasoning and what ends it out of the grammar.
    begun = f"{markers.opening}{element.opening}Hi{element.closing}{FORMATS[name].markup.section_open}"
    text = generate(grammar.text, Random(1), 400, tokens_of(begun) if has_special_tokens else [*begun.encode()])
    assert text is not None
    parser = build_parser(OutputParserSpec(name, text_element=element), "from trigger")
    assert parser is not None
    parts: list[OutputPart] = parse(parser, text.removeprefix(markers.opening))
    assert parts[:2] == [ContentText("Hi"), ToolCallStart(0, "get-time")]
    assert not any(isinstance(part, ReasoningText) for part in parts)


@pytest.mark.parametrize("name", HINTS)
def test_an_answer_without_tools_is_enforced_within_its_element(name: ToolFormatName) -> None:
    element = find_text_element(HINTS[name])
    assert element is not None
    for options in (None, msgspec.structs.replace(TOOLS, choice="auto")):
        markup = None if options is None else FORMATS[name].markup
        grammar = build_grammar(FORMAT, options, markup, SPECIAL.get, element=element)
        assert grammar.text is not None
        text = generate(grammar.text, Random(2), 400, tokens_of(f'{element.opening}{{"city": "'))
        assert text is not None
        parser = build_parser(OutputParserSpec(text_element=element))
        assert parser is not None
        [content] = parse(parser, text)
        assert isinstance(content, ContentText)
        assert validation_errors(content.text, WEATHER) == []
    assert build_grammar(None, None, None, SPECIAL.get, element=element).text is None
