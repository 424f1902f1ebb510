import functools
import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.request import ToolCall
from dragoman.output.markup import ToolFormatName
from dragoman.output.parts import ContentText, OutputPart, ToolCallArguments, ToolCallEnd, ToolCallStart
from dragoman.output.tool_call_parser import ArgumentTypes, ToolCallParser
from dragoman.prompt.tool_formats import FORMATS
from dragoman.prompt.tool_formats.format import write_calls
from tests.support.element_types import can_be_elements, types_of
from tests.support.output_parts import parse, splits, tool_call_parts
from tests.support.schemas import FUNCTION_NAME_CHARACTERS

NAMES: list[ToolFormatName] = [name for name in FORMATS if name != "generic"]  # which has the markup of hermes
FEWER = settings(max_examples=30)
FEW = settings(max_examples=8)  # for each of many families

HEAD = r'\{\s*"name"\s*:\s*"[\w.:/-]+"\s*,\s*"(?:arguments|parameters)"\s*:\s*'
CLOSE = "|".join(re.escape("</tool_call>"[:length]) for length in range(12, -1, -1))
BEFORE_CALL: dict[ToolFormatName, str] = {
    "hermes": r"\s*<tool_call>\s*",
    "llama3": r"\s*(?:;|<\|python_tag\|>)?\s*",
    "mistral": r"\s*(?:\[TOOL_CALLS\]\s*\[|,)\s*",
}
AFTER_CALL: dict[ToolFormatName, str] = {
    "hermes": rf"\s*\}}?\s*(?:{CLOSE})\s*",
    "llama3": r"\s*\}?\s*;?\s*",
    "mistral": r"\s*\}?\s*[\],]?\s*",
}

FRAGMENTS = [
    *(
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "[",
        "]",
        ", ",
        "; ",
        "<|python_tag|>",
        "<tool",
        "[TOOL",
        "{",
        "}",
    ),
    *('{"name": "f", "arguments": {"a": 1}}', '{"name": "g", "parameters": {}}', '{"name": "f", "arguments": '),
    *('{"name": "', '"name"', '"f"', ":", '", "arguments": ', '", "parameters": ', '{"a": "}\\""}', "[1, [2]]", "true"),
    *("}", " ", "\n", "\n\n", "\t", " " * 70, "Hello", "<", '"', "\\", "é", "\x00", "\u2028"),
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=12).map("".join)


@functools.cache
def look_alikes(name: ToolFormatName) -> st.SearchStrategy[str]:
    """Generate texts from pieces of a format's markup, whole ones and cut ones, in any order."""
    markup = FORMATS[name].markup
    pieces = [markup.trigger, markup.optional_prefix, markup.section_open, markup.call_open, markup.head_before_name]
    pieces += [markup.head_after_name, markup.tail, markup.call_close, markup.separator, markup.section_close]
    if markup.parameters is not None:
        pieces += [markup.parameters.head("a", is_string=True), markup.parameters.close]
    pieces = [piece for piece in dict.fromkeys(pieces) if piece]
    fragments = [*pieces, *(piece[: len(piece) // 2] for piece in pieces), "f", "{}", '"b"', "1", " ", "\n"]
    fragments += [markup.head("f"), f"{markup.section_open}{markup.call_open}{markup.head('f')}"]
    return st.lists(st.sampled_from([fragment for fragment in fragments if fragment]), max_size=9).map("".join)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
COMPOSITES = st.lists(VALUES, max_size=3) | st.dictionaries(st.text(max_size=9), VALUES, max_size=4)
SEPARATORS = st.sampled_from([None, (",", ":"), (" , ", " : ")])
INDENTATIONS = st.sampled_from([None, 2])


@st.composite
def arguments(draw: st.DrawFn, scalars: bool) -> str:
    """Encode an object, a list or another value as JSON in any style."""
    value: Any = draw(VALUES | COMPOSITES if scalars else COMPOSITES)
    separators, indent = draw(SEPARATORS), draw(INDENTATIONS)
    return json.dumps(value, indent=indent, separators=separators, ensure_ascii=draw(st.booleans()))


FUNCTION_NAMES = st.text(FUNCTION_NAME_CHARACTERS, min_size=1, max_size=64)
PARAMETER_NAMES = st.text(FUNCTION_NAME_CHARACTERS + ".$ ", min_size=1, max_size=32)
RAW_STRINGS = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=5).map("".join)
VALUE_NAMES = st.text(FUNCTION_NAME_CHARACTERS + ".$", min_size=1, max_size=32)
VALUED_ARGUMENTS = st.dictionaries(VALUE_NAMES, RAW_STRINGS | VALUES, max_size=4)
TAGGED_ARGUMENTS = st.dictionaries(PARAMETER_NAMES, RAW_STRINGS | VALUES, max_size=4).map(
    lambda values: json.dumps(values, ensure_ascii=False)
)
"""The objects that calls with tagged parameters may have, in the only style in which they are parsed."""


@st.composite
def chunks_of(draw: st.DrawFn, text: str) -> list[str]:
    """Split a text at random positions."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@functools.cache
def calls_of(name: ToolFormatName) -> st.SearchStrategy[list[ToolCall]]:
    """Generate calls. Where nothing follows the arguments, the end of a number or a word would be unknown."""
    markup = FORMATS[name].markup
    values = arguments(scalars=bool(markup.tail + markup.call_close))
    if markup.parameters is not None:
        values = TAGGED_ARGUMENTS
    elif markup.values is not None:
        # Gemma's syntax has no escapes, so that a string cannot contain its quotes.
        values = VALUED_ARGUMENTS.filter(markup.values.can_have).map(lambda each: json.dumps(each, ensure_ascii=False))
    elif markup.elements is not None:
        values = VALUED_ARGUMENTS.filter(can_be_elements).map(lambda each: json.dumps(each, ensure_ascii=False))
    calls = st.builds(ToolCall, st.just(""), FUNCTION_NAMES, values)
    return st.lists(calls, min_size=1, max_size=3, unique_by=lambda call: call.name)


def new_parser(name: ToolFormatName, calls: Sequence[ToolCall] = ()) -> ToolCallParser:
    """Create a parser that knows which arguments of these calls are strings, if they are tagged parameters."""
    return ToolCallParser(FORMATS[name].syntax, strings=strings_of(name, calls))


def strings_of(name: ToolFormatName, calls: Sequence[ToolCall]) -> ArgumentTypes:
    """Return the arguments that are strings, or the types of all. Of tools with the same name, the last one's."""
    objects = {call.name: json.loads(call.arguments) for call in calls}
    if FORMATS[name].markup.elements is not None:
        return {function: types_of(arguments) for function, arguments in objects.items()}
    return {
        name: {key: False for key, value in arguments.items() if isinstance(value, str)}
        for name, arguments in objects.items()
        if isinstance(arguments, dict)
    }


def hermes(*texts: str) -> list[OutputPart]:
    return parse(new_parser("hermes"), *texts)


def written(name: ToolFormatName, calls: list[ToolCall]) -> str:
    """Return calls as an answer, with ids as a model might choose them."""
    return write_calls(FORMATS[name].markup, [msgspec.structs.replace(call, id="aB3dE6gH9") for call in calls])


def pattern_of(parts: list[OutputPart], name: ToolFormatName) -> str:
    """Return a pattern for the texts that parse to these parts if only markup is removed."""
    patterns = []
    for part in parts:
        match part:
            case ToolCallStart():
                patterns.append(BEFORE_CALL[name] + HEAD)
            case ToolCallEnd():
                patterns.append(AFTER_CALL[name])
            case _:
                patterns.append(re.escape(part.text))
    return "".join(patterns)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(st.data())
def test_the_split_into_chunks_never_changes_the_result(name: ToolFormatName, data: st.DataObject) -> None:
    text = data.draw(TEXTS | look_alikes(name))
    parts = parse(new_parser(name), text)
    assert parse(new_parser(name), *data.draw(chunks_of(text))) == parts == parse(new_parser(name), *text)
    if not any(isinstance(part, ToolCallStart) for part in parts):
        assert parts == ([ContentText(text)] if text else [])


@pytest.mark.parametrize("name", NAMES)
def test_a_split_at_any_point_of_the_markup_changes_nothing(name: ToolFormatName) -> None:
    calls = [ToolCall("", "f", '{"a": "<x}", "b": [1, null]}'), ToolCall("", "g", "{}")]
    answer = written(name, calls)
    expected = [part for index, call in enumerate(calls) for part in tool_call_parts(index, call.name, call.arguments)]
    for position in range(len(answer) + 1):
        assert parse(new_parser(name, calls), answer[:position], answer[position:]) == expected
    assert parse(new_parser(name, calls), *answer) == expected


@pytest.mark.parametrize("value", ["[ x", "12", "12 x", "tru", "truth", "", " "])
def test_a_value_that_a_wrong_tag_ends_is_the_same_wherever_its_text_is_split(value: str) -> None:
    prefix = "]<]minimax[>["
    text = f'{prefix}<tool_call>\n{prefix}<invoke name="f">{prefix}<a>{value}{prefix}<b>'
    expected = parse(new_parser("minimax_m3"), *text)
    for position in range(len(text) + 1):
        assert parse(new_parser("minimax_m3"), text[:position], text[position:]) == expected


@pytest.mark.parametrize("name", BEFORE_CALL)
@FEWER
@given(TEXTS)
def test_only_markup_is_removed(name: ToolFormatName, text: str) -> None:
    assert re.fullmatch(pattern_of(parse(new_parser(name), text), name), text, re.DOTALL)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(st.text())
def test_an_answer_without_calls_is_unchanged(name: ToolFormatName, text: str) -> None:
    assert parse(new_parser(name), *text) == ([ContentText(text)] if text else [])


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(st.data())
def test_written_calls_are_parsed(name: ToolFormatName, data: st.DataObject) -> None:
    calls = data.draw(calls_of(name))
    answer = written(name, calls)
    assert answer.startswith(FORMATS[name].markup.trigger)
    expected = [part for index, call in enumerate(calls) for part in tool_call_parts(index, call.name, call.arguments)]
    assert parse(new_parser(name, calls), *data.draw(chunks_of(answer))) == expected


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(st.data())
def test_calls_that_are_cut_anywhere_lose_only_their_end(name: ToolFormatName, data: st.DataObject) -> None:
    calls = data.draw(calls_of(name))
    answer = written(name, calls)
    whole = parse(new_parser(name, calls), answer)
    cut = answer[: data.draw(st.integers(0, len(answer)))]
    parts = parse(ToolCallParser(FORMATS[name].syntax, "whole answer", strings_of(name, calls)), cut)
    ended = [part for part in parts if isinstance(part, ToolCallEnd)]
    assert parts == whole[: len(parts)] or isinstance(parts[-1], ToolCallArguments)
    assert parts[: 3 * len(ended)] == whole[: 3 * len(ended)]


@pytest.mark.parametrize("name", [name for name in NAMES if not FORMATS[name].markup.only_at_start])
@FEW
@given(st.data(), st.text(st.characters(exclude_characters="<[f", codec="utf-8")))
def test_text_before_calls_is_content(name: ToolFormatName, data: st.DataObject, text: str) -> None:
    calls = data.draw(calls_of(name))
    parts = parse(new_parser(name, calls), *data.draw(chunks_of(text + written(name, calls))))
    content = text.rstrip(" \t\r\n")
    expected = [part for index, call in enumerate(calls) for part in tool_call_parts(index, call.name, call.arguments)]
    assert parts == ([ContentText(content)] if content else []) + expected


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [
        (
            "hermes",
            'Let me see.\n\n<tool_call>\n{"name": "f", "arguments": {"a": "}\\""}}\n</tool_call>\n<tool_call>'
            '{"name":"g","arguments":{}}</tool_call>\n Done.\n',
            [
                ContentText("Let me see."),
                *tool_call_parts(0, "f", '{"a": "}\\""}'),
                *tool_call_parts(1, "g", "{}"),
                ContentText("\n Done.\n"),
            ],
        ),
        (
            "llama3",
            ' <|python_tag|>{"name": "f", "parameters": {"a": [1, {}]}}; {"name": "g", "parameters": {}} ',
            [*tool_call_parts(0, "f", '{"a": [1, {}]}'), *tool_call_parts(1, "g", "{}")],
        ),
        (
            "mistral",
            'So: [TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, \n{"name": "g", "arguments": null } ]\n!',
            [
                ContentText("So:"),
                *tool_call_parts(0, "f", '{"a": 1}'),
                *tool_call_parts(1, "g", "null"),
                ContentText("\n!"),
            ],
        ),
    ],
)
def test_a_call_split_anywhere_is_parsed_the_same(
    name: ToolFormatName, answer: str, expected: list[OutputPart]
) -> None:
    for texts in splits(answer):
        assert parse(new_parser(name), *texts) == expected


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        "  <tool_call>\n",
        "<tool_call> and then",
        '<tool_call>\n{"name": "f"}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": }\n</tool_call>',
        '<tool_call>\n{"name": "", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "a b", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"arguments": {}, "name": "f"}\n</tool_call>',
        '<tool_call>\n{"name": "f", "parameters": {}}\n</tool_call>',
        f'<tool_call>{" " * 65}{{"name": "f", "arguments": {{}}}}',
        '{"name": "f", "arguments": {}}',
    ],
)
def test_what_cannot_be_a_call_is_content(text: str) -> None:
    assert hermes(*text) == [ContentText(text)]


def test_a_call_is_parsed_after_an_incomplete_opening() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert hermes(f"<tool_call>\n{call}") == [ContentText("<tool_call>"), *tool_call_parts(0, "f", "{}")]


def test_a_call_begins_with_the_first_character_of_its_arguments() -> None:
    parser = new_parser("hermes")
    assert parser.feed('<tool_call>\n{"name": "f", "arguments": ') == []
    assert parser.feed("{") == [ToolCallStart(0, "f"), ToolCallArguments(0, "{")]
    assert parser.feed('"a": 1') == [ToolCallArguments(0, '"a": 1')]
    assert parser.feed("}") == [ToolCallArguments(0, "}"), ToolCallEnd(0)]


def test_text_that_breaks_the_markup_after_the_arguments_is_content() -> None:
    assert hermes('<tool_call>{"name": "f", "arguments": {}, "id": 7}') == [
        *tool_call_parts(0, "f", "{}"),
        ContentText(', "id": 7}'),
    ]
    assert hermes('<tool_call>{"name": "f", "arguments": {}}\n\nSo.') == [
        *tool_call_parts(0, "f", "{}"),
        ContentText("\n\nSo."),
    ]
    assert parse(new_parser("mistral"), '[TOOL_CALLS] [{"name": "f", "arguments": {}}, or not') == [
        *tool_call_parts(0, "f", "{}"),
        ContentText(", or not"),
    ]


def test_a_cut_answer_keeps_possible_text_and_drops_markup() -> None:
    whole = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    assert hermes(whole[:20]) == [ContentText(whole[:20])]
    assert hermes(whole[:45]) == [ToolCallStart(0, "f"), ToolCallArguments(0, '{"a": ')]
    for length in range(whole.index("}\n<"), len(whole)):
        assert hermes(whole[:length]) == tool_call_parts(0, "f", '{"a": 1}')


def test_an_answer_of_llama_3_is_either_calls_or_text() -> None:
    call = '{"name": "f", "parameters": {}}'
    assert parse(new_parser("llama3"), f"Well: {call}") == [ContentText(f"Well: {call}")]
    assert parse(new_parser("llama3"), f"{call} Well: {call}") == [
        *tool_call_parts(0, "f", "{}"),
        ContentText(f" Well: {call}"),
    ]


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(TEXTS)
def test_a_parser_reports_how_many_characters_it_holds_back(name: ToolFormatName, text: str) -> None:
    parser = new_parser(name)
    shown = ""
    in_calls = False
    for position, character in enumerate(text):
        parts = parser.feed(character)
        shown += "".join(part.text for part in parts if isinstance(part, ContentText))
        in_calls = in_calls or any(isinstance(part, ToolCallStart) for part in parts)
        assert not parser.in_reasoning
        if not in_calls:
            assert len(shown) + parser.held_characters == position + 1
            assert parser.in_content
    parser.finish()
    assert parser.held_characters == 0


def test_arguments_are_not_content() -> None:
    parser = new_parser("hermes")
    parser.feed('<tool_call>{"name": "f", "arguments": {"a')
    assert not parser.in_content
    assert parser.held_characters == 0
    parser.feed('": 1}')
    assert parser.in_content
