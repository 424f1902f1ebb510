import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.request import ToolCall
from dragoman.prompt.call_reader import CallReader
from dragoman.prompt.markup import FormatName
from dragoman.prompt.pieces import CallArguments, CallBegins, CallEnds, Content, Piece
from dragoman.prompt.tool_formats import FORMATS
from dragoman.prompt.tool_formats.format import write_calls
from tests.support.pieces import call, read, splits

NAMES: list[FormatName] = [name for name in FORMATS if name != "generic"]  # which is read as hermes is
FEWER = settings(max_examples=50)

HEAD = r'\{\s*"name"\s*:\s*"[\w.:/-]+"\s*,\s*"(?:arguments|parameters)"\s*:\s*'
CLOSE = "|".join(re.escape("</tool_call>"[:length]) for length in range(12, -1, -1))
BEFORE_CALL: dict[FormatName, str] = {
    "hermes": r"\s*<tool_call>\s*",
    "llama3": r"\s*(?:;|<\|python_tag\|>)?\s*",
    "mistral": r"\s*(?:\[TOOL_CALLS\]\s*\[|,)\s*",
}
BEHIND_CALL: dict[FormatName, str] = {
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

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def arguments(draw: st.DrawFn) -> str:
    """JSON of any value, in any style."""
    value: Any = draw(VALUES | st.dictionaries(st.text(max_size=9), VALUES, max_size=4))
    separators = draw(st.sampled_from([None, (",", ":"), (" , ", " : ")]))
    return json.dumps(
        value, indent=draw(st.none() | st.just(2)), separators=separators, ensure_ascii=draw(st.booleans())
    )


@st.composite
def pieces_of(draw: st.DrawFn, text: str) -> list[str]:
    """A text, split at random places."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


CALLS = st.lists(
    st.builds(ToolCall, st.just(""), st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True), arguments()), min_size=1
)


def reader(name: FormatName) -> CallReader:
    return CallReader(FORMATS[name].syntax)


def hermes(*texts: str) -> list[Piece]:
    return read(reader("hermes"), *texts)


def pattern_of(pieces: list[Piece], name: FormatName) -> str:
    """What a text must look like from which the pieces were read, if nothing but markup may be missing in them."""
    patterns = []
    for piece in pieces:
        match piece:
            case CallBegins():
                patterns.append(BEFORE_CALL[name] + HEAD)
            case CallEnds():
                patterns.append(BEHIND_CALL[name])
            case _:
                patterns.append(re.escape(piece.text))
    return "".join(patterns)


@pytest.mark.parametrize("name", NAMES)
@FEWER
@given(st.data(), TEXTS)
def test_the_split_into_pieces_never_changes_what_is_read(name: FormatName, data: st.DataObject, text: str) -> None:
    assert read(reader(name), *data.draw(pieces_of(text))) == read(reader(name), text) == read(reader(name), *text)


@pytest.mark.parametrize("name", NAMES)
@FEWER
@given(TEXTS)
def test_nothing_but_markup_is_left_out(name: FormatName, text: str) -> None:
    assert re.fullmatch(pattern_of(read(reader(name), text), name), text, re.DOTALL)


@pytest.mark.parametrize("name", NAMES)
@FEWER
@given(st.text())
def test_an_answer_without_calls_comes_out_as_it_went_in(name: FormatName, text: str) -> None:
    assert read(reader(name), *text) == ([Content(text)] if text else [])


@pytest.mark.parametrize("name", NAMES)
@FEWER
@given(st.data(), CALLS)
def test_calls_in_the_markup_are_read_back(name: FormatName, data: st.DataObject, made: list[ToolCall]) -> None:
    answer = write_calls(FORMATS[name].markup, made)
    assert answer.startswith(FORMATS[name].markup.trigger)
    expected = [piece for number, one in enumerate(made) for piece in call(number, one.name, one.arguments)]
    assert read(reader(name), *data.draw(pieces_of(answer))) == expected


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [
        (
            "hermes",
            'Let me see.\n\n<tool_call>\n{"name": "f", "arguments": {"a": "}\\""}}\n</tool_call>\n<tool_call>'
            '{"name":"g","arguments":{}}</tool_call>\n Done.\n',
            [Content("Let me see."), *call(0, "f", '{"a": "}\\""}'), *call(1, "g", "{}"), Content("\n Done.\n")],
        ),
        (
            "llama3",
            ' <|python_tag|>{"name": "f", "parameters": {"a": [1, {}]}}; {"name": "g", "parameters": {}} ',
            [*call(0, "f", '{"a": [1, {}]}'), *call(1, "g", "{}")],
        ),
        (
            "mistral",
            'So: [TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, \n{"name": "g", "arguments": null } ]\n!',
            [Content("So:"), *call(0, "f", '{"a": 1}'), *call(1, "g", "null"), Content("\n!")],
        ),
    ],
)
def test_a_call_split_anywhere_reads_the_same(name: FormatName, answer: str, expected: list[Piece]) -> None:
    for texts in splits(answer):
        assert read(reader(name), *texts) == expected


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
    assert hermes(*text) == [Content(text)]


def test_a_call_begins_behind_another_ones_beginning() -> None:
    good = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert hermes(f"<tool_call>\n{good}") == [Content("<tool_call>"), *call(0, "f", "{}")]


def test_a_call_begins_with_the_first_character_of_its_arguments() -> None:
    calls = reader("hermes")
    assert calls.feed('<tool_call>\n{"name": "f", "arguments": ') == []
    assert calls.feed("{") == [CallBegins(0, "f"), CallArguments(0, "{")]
    assert calls.feed('"a": 1') == [CallArguments(0, '"a": 1')]
    assert calls.feed("}") == [CallArguments(0, "}"), CallEnds(0)]


def test_what_breaks_the_markup_behind_the_arguments_is_content() -> None:
    assert hermes('<tool_call>{"name": "f", "arguments": {}, "id": 7}') == [*call(0, "f", "{}"), Content(', "id": 7}')]
    assert hermes('<tool_call>{"name": "f", "arguments": {}}\n\nSo.') == [*call(0, "f", "{}"), Content("\n\nSo.")]
    assert read(reader("mistral"), '[TOOL_CALLS] [{"name": "f", "arguments": {}}, or not') == [
        *call(0, "f", "{}"),
        Content(", or not"),
    ]


def test_an_answer_that_is_cut_keeps_what_may_be_text_and_drops_what_is_markup() -> None:
    whole = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    assert hermes(whole[:20]) == [Content(whole[:20])]
    assert hermes(whole[:45]) == [CallBegins(0, "f"), CallArguments(0, '{"a": ')]
    for length in range(whole.index("}\n<"), len(whole)):
        assert hermes(whole[:length]) == call(0, "f", '{"a": 1}')


def test_an_answer_of_llama_3_is_either_calls_or_text() -> None:
    made = '{"name": "f", "parameters": {}}'
    assert read(reader("llama3"), f"Well: {made}") == [Content(f"Well: {made}")]
    assert read(reader("llama3"), f"{made} Well: {made}") == [*call(0, "f", "{}"), Content(f" Well: {made}")]


@pytest.mark.parametrize("name", NAMES)
@FEWER
@given(TEXTS)
def test_a_reader_tells_how_much_text_it_holds_back(name: FormatName, text: str) -> None:
    calls = reader(name)
    shown = ""
    in_calls = False
    for position, character in enumerate(text):
        pieces = calls.feed(character)
        shown += "".join(piece.text for piece in pieces if isinstance(piece, Content))
        in_calls = in_calls or any(isinstance(piece, CallBegins) for piece in pieces)
        assert not calls.in_thought
        if not in_calls:
            assert len(shown) + calls.held == position + 1
            assert calls.in_content
    calls.finish()
    assert calls.held == 0


def test_arguments_are_no_text_for_the_client() -> None:
    calls = reader("hermes")
    calls.feed('<tool_call>{"name": "f", "arguments": {"a')
    assert not calls.in_content
    assert calls.held == 0
    calls.feed('": 1}')
    assert calls.in_content
