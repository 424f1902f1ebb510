import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.request import ToolCall
from dragoman.output.markup import ToolFormatName
from dragoman.output.parts import ContentText, ToolCallArguments, ToolCallEnd, ToolCallStart
from dragoman.output.tagged_arguments import StringParameters
from dragoman.output.tool_call_parser import ToolCallParser
from dragoman.prompt.tool_formats import FORMATS
from dragoman.prompt.tool_formats.format import write_calls
from tests.support.output_parts import parse, splits, tool_call_parts

TAGGED: list[ToolFormatName] = [name for name, known in FORMATS.items() if known.markup.parameters is not None]
ARGUMENTS: dict[str, Any] = {"city": 'Os\n"lo </par', "days": [3, "</parameter>"], "empty": "", "none": None}
STRINGS: StringParameters = {"f": {"city": False, "empty": False}, "g": {}}


def written(name: ToolFormatName, *calls: tuple[str, dict[str, Any]]) -> str:
    return write_calls(FORMATS[name].markup, [ToolCall("", tool, json.dumps(values)) for tool, values in calls])


def parser(name: ToolFormatName = "qwen3_coder", strings: StringParameters | None = None) -> ToolCallParser:
    return ToolCallParser(FORMATS[name].syntax, strings=strings)


@pytest.mark.parametrize("name", TAGGED)
def test_arguments_split_anywhere_are_parsed_the_same(name: ToolFormatName) -> None:
    has_text = not FORMATS[name].markup.only_at_start
    answer = f"{'So:' * has_text}\n{written(name, ('f', ARGUMENTS), ('g', {}))}"
    expected = [
        *[ContentText("So:")] * has_text,
        *tool_call_parts(0, "f", json.dumps(ARGUMENTS)),
        *tool_call_parts(1, "g", "{}"),
    ]
    for texts in splits(answer) if name == "qwen3_coder" else [[answer], [*answer]]:
        assert parse(parser(name, STRINGS), *texts) == expected


@pytest.mark.parametrize("name", TAGGED)
def test_arguments_of_unknown_type_are_json_if_they_can_be(name: ToolFormatName) -> None:
    values = {"a": 1.5, "b": "NaN", "c": [None], "d": "plain [text", "e": "{}}", "f": True}
    (_, part, _) = parse(parser(name), *written(name, ("f", values)))
    assert isinstance(part, ToolCallArguments)
    assert json.loads(part.text) == values


@settings(max_examples=60)
@given(st.lists(st.sampled_from([*'ab<>/=\n "1[{,}', "<tool_call>", "<function=f>", "<parameter=p>", "</parameter>"])))
def test_arguments_of_unknown_tools_are_json_whatever_follows(pieces: list[str]) -> None:
    text = "<tool_call><function=f><parameter=" + "".join(pieces) + "</parameter></function></tool_call>"
    parts = parse(parser(), *text)
    assert parts == parse(parser(), text)
    for start, part in itertools.pairwise(parts):
        if isinstance(start, ToolCallStart) and isinstance(part, ToolCallArguments):
            is_complete = ToolCallEnd(part.call) in parts
            assert not is_complete or isinstance(json.loads(part.text), dict)


def test_the_characters_of_a_string_come_as_soon_as_they_cannot_be_its_end() -> None:
    reader = parser(strings=STRINGS)
    assert reader.feed("<tool_call>\n<function=f>\n<parameter") == []
    assert reader.feed("=") == [ToolCallStart(0, "f")]
    assert reader.feed("city>\n") == [ToolCallArguments(0, '{"city": "')]
    assert reader.feed("O\t") == [ToolCallArguments(0, "O\\t")]
    assert reader.feed("\n</para") == []
    assert reader.feed("p") == [ToolCallArguments(0, "\\n</parap")]
    assert reader.feed("\n</parameter>") == [ToolCallArguments(0, '"')]
    assert reader.feed("\n</function>") == [ToolCallArguments(0, "}"), ToolCallEnd(0)]
    assert reader.held_characters == 0


@pytest.mark.parametrize("name", TAGGED)
@pytest.mark.parametrize("value", [None, "", "nul", "nullx", "null\n", "Oslo", "\nnull"])
def test_a_string_that_may_be_null_is_null_only_where_that_is_all_of_it(
    name: ToolFormatName, value: str | None
) -> None:
    answer = written(name, ("f", {"a": value, "b": value}))
    expected = tool_call_parts(0, "f", json.dumps({"a": value, "b": value}))
    for texts in ([answer], [*answer]):
        assert parse(parser(name, {"f": {"a": True, "b": True}}), *texts) == expected


def test_json_comes_as_it_is_written() -> None:
    reader = parser(strings=STRINGS)
    reader.feed("<tool_call>\n<function=f>\n<parameter=days>\n")
    assert reader.feed("[1, ") == [ToolCallArguments(0, "[1, ")]
    assert reader.feed('"</parameter>') == [ToolCallArguments(0, '"</parameter>')]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        "<tool_call>\n<function=f",
        "<tool_call>\n<function=f>\n",
        "<tool_call>\n<function=f> and so on",
        "<tool_call>\n<function=>\n</function>\n</tool_call>",
        "<function=f>\n</function>",
        '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
    ],
)
def test_what_cannot_be_a_call_is_content(text: str) -> None:
    assert parse(parser(), *text) == [ContentText(text)]


def test_a_call_whose_markup_breaks_ends_there_and_the_rest_is_content() -> None:
    text = "<tool_call>\n<function=f>\n<parameter=city>\nOslo\n</parameter>\nWell."
    assert parse(parser(strings=STRINGS), *text) == [
        *tool_call_parts(0, "f", '{"city": "Oslo"}'),
        ContentText("\nWell."),
    ]


def test_a_cut_call_loses_only_its_end() -> None:
    answer = written("qwen3_coder", ("f", {"city": "Oslo", "days": [1, 2]}))
    whole = '{"city": "Oslo", "days": [1, 2]}'
    for length in range(answer.index("<parameter=") + len("<parameter="), answer.index("</function>")):
        start, *parts = parse(parser(strings=STRINGS), answer[:length])
        assert start == ToolCallStart(0, "f")
        text = "".join(part.text for part in parts if isinstance(part, ToolCallArguments))
        assert whole.startswith(text)
        assert answer[length - 1] != "]" or text == whole[:-1]
        assert ToolCallEnd(0) not in parts


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("<![CDATA[a < b]]>", "a < b"),
        ("<![CDATA[]]>", ""),
        ("<![CDATA[a\nb]]]]>", "a\nb]]"),
        ("<![CDATA[cut", "cut"),
        ("<![CDAT", "<![CDAT"),
        ("a]]>", "a]]>"),
        ("1", "1"),
    ],
)
def test_a_string_in_a_wrapper_is_what_stands_within(value: str, text: str) -> None:
    answer = f'<function name="f"><param name="city">{value}</param></function>'
    expected = tool_call_parts(0, "f", json.dumps({"city": text}))
    for texts in splits(answer):
        assert parse(parser("minicpm5", STRINGS), *texts) == expected
    if value.endswith("]]>") and value.startswith("<"):
        assert parse(parser("minicpm5"), answer) == expected, "of unknown type"


def test_a_string_is_written_in_a_wrapper_if_it_needs_one() -> None:
    answer = written("minicpm5", ("f", {"a": "b > c", "d": "e & f", "g": 1}))
    assert answer == (
        '<function name="f"><param name="a">b > c</param><param name="d"><![CDATA[e & f]]></param>'
        '<param name="g">1</param></function>'
    )
