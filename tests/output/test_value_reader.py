"""Calls whose arguments are neither JSON nor tagged become calls with arguments in JSON."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.request import ToolCall
from dragoman.output.markup import ToolFormatName
from dragoman.output.parts import ContentText, ToolCallArguments, ToolCallEnd, ToolCallStart
from dragoman.output.tool_call_parser import ToolCallMode, ToolCallParser
from dragoman.prompt.tool_formats import FORMATS
from dragoman.prompt.tool_formats.format import write_calls
from tests.support.output_parts import parse, splits, tool_call_parts

VALUED: list[ToolFormatName] = [name for name, known in FORMATS.items() if known.markup.values is not None]
ARGUMENTS: dict[str, Any] = {"a": 'O"s\n\\<', "b": [True, {"c d": -1.5}], "e": "", "f": {}}


def written(name: ToolFormatName, *calls: tuple[str, dict[str, Any]]) -> str:
    return write_calls(FORMATS[name].markup, [ToolCall("", tool, json.dumps(values)) for tool, values in calls])


def parser(name: ToolFormatName, mode: ToolCallMode = "none") -> ToolCallParser:
    return ToolCallParser(FORMATS[name].syntax, mode)


def arguments_of(name: ToolFormatName, written_arguments: str) -> str:
    """Read the arguments of one call, which must be all of the answer."""
    markup = FORMATS[name].markup
    head, tail = f"{markup.section_open}{markup.call_open}{markup.head('f')}", f"{markup.tail}{markup.call_close}"
    answer = f"{head}{written_arguments}{tail}{markup.section_close}"
    start, arguments, end = parse(parser(name), *answer)
    assert (start, end) == (ToolCallStart(0, "f"), ToolCallEnd(0))
    assert isinstance(arguments, ToolCallArguments)
    assert parse(parser(name), answer) == [start, arguments, end]
    return arguments.text


@pytest.mark.parametrize("name", VALUED)
def test_arguments_split_anywhere_are_parsed_the_same(name: ToolFormatName) -> None:
    answer = written(name, ("f", ARGUMENTS), ("g", {}))
    expected = [*tool_call_parts(0, "f", json.dumps(ARGUMENTS)), *tool_call_parts(1, "g", "{}")]
    for texts in splits(answer) if name in ("lfm2", "gemma4") else [[answer], [*answer]]:
        assert parse(parser(name), *texts) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a=\'it\\\'s "b"\', b=""', '{"a": "it\'s \\"b\\"", "b": ""}'),
        ("a=True, b=false, c=None, d=null", '{"a": true, "b": false, "c": null, "d": null}'),
        (" a = 1 ,\n b = [ 1 , 2, ] , ", '{"a": 1, "b": [1, 2]}'),
        ("a={'x': {\"y\": []}, 'z': -0.5e+3}", '{"a": {"x": {"y": []}, "z": -0.5e+3}}'),
        ("a='\\x41\\u00e9\\U0001F600\\n\\t\\0'", '{"a": "Aé😀\\n\\t\\u0000"}'),
        ("a='\\ud83d\\ude00 \\ud800'", '{"a": "\\ud83d\\ude00 \\ud800"}'),
        ("a='\\q\\xg\\u12'", '{"a": "\\\\q\\\\xg\\\\u12"}'),
        ("a='b\\\nc'", '{"a": "bc"}'),
        ("a='U\\U00110000'", '{"a": "U\\\\U00110000"}'),
        ("a=Oslo, b=1_000, c=.5, d=0x1F", '{"a": "Oslo", "b": "1_000", "c": ".5", "d": "0x1F"}'),
        ("", "{}"),
    ],
)
def test_values_of_python_become_json(text: str, expected: str) -> None:
    assert arguments_of("lfm2", text) == expected
    json.loads(expected)


@settings(max_examples=80)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    )
)
def test_what_python_writes_is_read(value: Any) -> None:
    expected = json.dumps({"a": value}, ensure_ascii=False)
    assert arguments_of("lfm2", f"a={value!r}") == expected
    assert arguments_of("lfm2", f"a={value!a}") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a:<|"|>"b"\\n<|"|>,c:[true,<|"|><|"|>]', '{"a": "\\"b\\"\\\\n", "c": [true, ""]}'),
        ("a:{b:None,c:null}", '{"a": {"b": null, "c": null}}'),
        ('<|"|>two words<|"|>:1', '{"two words": 1}'),
        ("a : 1 , b : [ ]", '{"a": 1, "b": []}'),
        ("a:<|\"|><|\"\n|<|\"|>", '{"a": "<|\\"\\n|"}'),
    ],
)  # fmt: skip
def test_values_of_gemma_become_json(text: str, expected: str) -> None:
    assert arguments_of("gemma4", text) == expected


def test_the_characters_of_a_string_come_as_soon_as_they_cannot_be_its_end() -> None:
    reader = parser("gemma4")
    assert reader.feed("<|tool_call>call:f{ci") == []
    assert reader.feed("ty:") == [ToolCallStart(0, "f"), ToolCallArguments(0, '{"city": ')]
    assert reader.feed('<|"|>O') == [ToolCallArguments(0, '"O')]
    assert reader.feed('<|"') == []
    assert reader.feed("\n") == [ToolCallArguments(0, '<|\\"\\n')]
    assert reader.feed('<|"|>}') == [ToolCallArguments(0, '"}'), ToolCallEnd(0)]


def test_text_in_brackets_that_is_no_call_is_content() -> None:
    for text in ("[", "[1, 2]", "[f", "[f]", "[f(x)]", "[f(1)]", "[f(a)]", "[f (a=1)]", "Well: [f(a=1)]", "[[f(a=1)]]"):
        for mode in ("none", "from trigger"):
            assert parse(parser("pythonic", mode), *text) == [ContentText(text)], (text, mode)
    assert parse(parser("pythonic", "from trigger"), "[f(") == []
    assert parse(parser("pythonic"), "[f()]") == tool_call_parts(0, "f", "{}")


@pytest.mark.parametrize(
    ("answer", "arguments", "rest"),
    [
        ("[f(a=1 b=2)]", '{"a": 1}', "b=2)]"),
        ("[f(a={'b' 1})]", '{"a": {"b": null}}', "1})]"),
        ("[f(a=[1, )]", '{"a": [1]}', ")]"),
        ("[f(a=)]", '{"a": null}', ")]"),
        ("[f(a=1, 2)]", '{"a": 1}', "2)]"),
        ("[f(a=[{'b': 1)]", '{"a": [{"b": 1}]}', ")]"),
    ],
)
def test_arguments_that_break_end_there_as_json_and_the_rest_is_content(answer: str, arguments: str, rest: str) -> None:
    assert parse(parser("pythonic"), *answer) == [*tool_call_parts(0, "f", arguments), ContentText(rest)]


@pytest.mark.parametrize("name", ["lfm2", "gemma4"])
@settings(max_examples=80)
@given(
    st.lists(st.sampled_from([*"ab=:,'\"\\[]{}() \n1-x", "True", "<|", '"|>', '<|"|>', "u00", "\\ud8"]), max_size=20)
)
def test_arguments_are_json_whatever_they_are(name: ToolFormatName, pieces: list[str]) -> None:
    markup = FORMATS[name].markup
    text = (
        f"{markup.section_open}{markup.call_open}{markup.head('f')}a{'=' if name == 'lfm2' else ':'}{''.join(pieces)}"
    )
    for answer in (text, f"{text}{markup.tail}{markup.call_close}"):
        parts = parse(parser(name), *answer)
        assert parts == parse(parser(name), answer)
        for start, part in itertools.pairwise(parts):
            if isinstance(start, ToolCallStart) and isinstance(part, ToolCallArguments):
                is_complete = ToolCallEnd(part.call) in parts
                assert not is_complete or isinstance(json.loads(part.text), dict)


@pytest.mark.parametrize("name", VALUED)
def test_a_cut_call_loses_only_its_end(name: ToolFormatName) -> None:
    answer = written(name, ("f", ARGUMENTS))
    whole = json.dumps(ARGUMENTS)
    for length in range(len(answer)):
        parts = parse(parser(name, "whole answer"), answer[:length])
        text = "".join(part.text for part in parts if isinstance(part, ToolCallArguments))
        assert whole.startswith(text)
        assert not [part for part in parts if isinstance(part, ContentText)]
        assert ToolCallEnd(0) not in parts or text == whole
