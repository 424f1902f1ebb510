"""Calls with a tagged value for each parameter have the values that the schema allows, and no others."""

import json
from random import Random
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.request import Tool, ToolCall, ToolOptions
from dragoman.output.grammar import build_grammar
from dragoman.output.grammar.build import BuiltGrammar
from dragoman.output.grammar.pattern import UNWRITABLE
from dragoman.output.markup import ToolFormatName
from dragoman.output.parts import ToolCallArguments, ToolCallStart
from dragoman.output.tool_call_parser import ToolCallParser
from dragoman.prompt.tool_formats import FORMATS
from dragoman.prompt.tool_formats.format import ToolFormat, write_calls
from tests.support.grammars import SPECIAL, allows, generate, tokens_of, validation_errors
from tests.support.output_parts import parse, tool_call_parts
from tests.support.schemas import tools

QWEN = FORMATS["qwen3_coder"]


def build(schema: dict[str, Any], *, strict: bool = True, known: ToolFormat = QWEN) -> BuiltGrammar:
    tool = Tool("f", parameters=schema, strict=strict)
    return build_grammar(None, ToolOptions((tool,), "required", parallel=False), known.markup, lambda _: None)


def fits(schema: dict[str, Any], arguments: dict[str, Any], *, strict: bool = True) -> bool:
    """Whether a call with these arguments, written as in a message, can be generated."""
    text = build(schema, strict=strict).text
    assert text is not None
    return allows(text, write_calls(QWEN.markup, [ToolCall("", "f", json.dumps(arguments))]))


def value_fits(schema: dict[str, Any], value: Any) -> bool:
    return fits({"properties": {"a": schema}, "required": ["a"]}, {"a": value})


@settings(max_examples=60)
@given(known=st.sampled_from([QWEN, FORMATS["minicpm5"]]), tool=tools(), seed=st.integers(0, 2**32))
def test_generated_arguments_are_valid(known: ToolFormat, tool: Tool, seed: int) -> None:
    schema = tool.parameters or {}
    try:
        grammar = build(schema, strict=False, known=known)
    except BadRequest:
        return  # A name or a constant cannot be written.
    assert grammar.text is not None
    text = generate(grammar.text, Random(seed), 400)
    if text is None:
        return
    parts = parse(ToolCallParser(known.syntax, "whole answer", grammar.strings), *text)
    assert parts[0] == ToolCallStart(0, "f")
    assert isinstance(parts[1], ToolCallArguments)
    assert validation_errors(parts[1].text, schema) == []


@settings(max_examples=60)
@given(
    st.fixed_dictionaries(
        {"text": st.text(max_size=30)},
        optional={"count": st.integers(-99, 99), "unit": st.sampled_from(["C", "F"]), "more": st.lists(st.text())},
    )
)
def test_every_valid_call_can_be_generated(arguments: dict[str, Any]) -> None:
    schema = {
        "properties": {
            "text": {"type": "string"},
            "count": {"type": "integer"},
            "unit": {"enum": ["C", "F"]},
            "more": {"type": "array", "items": {"type": "string", "pattern": ""}},
        },
        "required": ["text"],
    }
    if not any(
        UNWRITABLE.match(character) or ord(character) < 32 for text in arguments.get("more", ()) for character in text
    ):
        ordered = {name: arguments[name] for name in schema["properties"] if name in arguments}
        assert fits(schema, ordered)


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["éé", "a\n<"], ["a", "abcd"]),
        ({"type": "string", "pattern": "^[a-z]{2}|x$"}, ["ab1", "1x", "x"], ["a", "x1"]),
        ({"type": "string", "pattern": "b|[|)]"}, ["abc", "(|", ")"], ["ac", "("]),
        ({"type": "string", "pattern": "^(?=.*[0-9])[a-z0-9]+$"}, ["a1", "1"], ["a", "1A"]),
        ({"enum": ["north", "south/east"]}, ["north", "south/east"], ["nort", "northe"]),
        ({"const": 'a "b"'}, ['a "b"'], ["a b"]),
        ({"type": "string", "format": "date"}, ["2024-12-31"], ["2024-02-30", "2024-1-1", "today"]),
        ({"type": "string", "format": "date-time"}, ["2024-12-31T23:59:59Z"], ["2024-12-31", "2024-12-31T24:00:00Z"]),
        ({"type": "string", "format": "uri"}, ["https://a.example:80/b?c=%20#d"], ["a b", "https://", "x://a/%2"]),
        ({"type": "string", "format": "email"}, ["a.b@c.example"], ["a", "a@b", ".a@b.example"]),
        ({"type": "string", "format": "uuid1"}, [], ["x"]),
        ({"anyOf": [{"const": "auto"}, {"type": "string", "pattern": "^[0-9]+$"}]}, ["auto", "12"], ["aut", ""]),
        ({"allOf": [{"type": "string"}, {"enum": ["a", 1]}]}, ["a"], ["1", 1]),
        ({"type": "string", "not": {"const": "a"}}, ["b", "ab", ""], ["a"]),
    ],
)
def test_constraints_of_strings_are_enforced_without_quotes(
    schema: dict[str, Any], valid: list[Any], invalid: list[Any]
) -> None:
    assert [value for value in valid if not value_fits(schema, value)] == []
    assert [value for value in invalid if value_fits(schema, value)] == []


def test_a_string_never_contains_its_closing_tag() -> None:
    assert value_fits({"type": "string"}, "</parameter")
    assert not value_fits({"type": "string"}, "a</parameter>b")
    assert not value_fits({"type": "string", "minLength": 20}, "a\n</parameter>\n</function>")
    assert value_fits({"type": "array"}, ["</parameter>"])


def test_only_a_string_without_keywords_may_be_in_a_wrapper() -> None:
    """Whose characters are none of the value's."""
    known = FORMATS["minicpm5"]
    strings: list[tuple[dict[str, Any], bool]] = [({}, True), ({"minLength": 9}, False), ({"pattern": "<"}, False)]
    for keywords, is_allowed in strings:
        schema = {"properties": {"a": {"type": "string", **keywords}}, "required": ["a"]}
        text = build(schema, known=known).text
        assert text is not None
        assert allows(text, '<function name="f"><param name="a"><![CDATA[<]]></param></function>') is is_allowed
        assert allows(text, '<function name="f"><param name="a">123456 < 9</param></function>')


def test_values_that_may_be_no_string_are_json() -> None:
    grammar = build({"properties": {"a": {"type": ["string", "integer"]}, "b": {}, "c": {"type": "string"}}})
    assert grammar.strings == {"f": {"c": False}}
    call = "<tool_call>\n<function=f>\n<parameter=a>\n{}\n</parameter>\n</function>\n</tool_call>"
    assert grammar.text is not None
    assert allows(grammar.text, call.format('"x"'))
    assert allows(grammar.text, call.format("12"))
    assert not allows(grammar.text, call.format("x"))


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"type": ["string", "null"]}, ["", "Oslo", '"', "nul", None], []),
        ({"anyOf": [{"type": "string", "maxLength": 2}, {"type": "null"}], "default": None}, ["ab", None], ["abc"]),
        ({"enum": ["a", None]}, ["a", None], ["b"]),
        ({"enum": ["</parameter>", None]}, [None], ["null</parameter>"]),
        ({"type": ["string", "null"], "not": {"type": "null"}}, ["a"], [None]),
    ],
)
@pytest.mark.parametrize("name", ["qwen3_coder", "glm47", "deepseek_v32"])
def test_a_string_or_null_has_no_quotes(
    name: ToolFormatName, schema: dict[str, Any], valid: list[Any], invalid: list[Any]
) -> None:
    markup = FORMATS[name].markup
    assert markup.parameters is not None
    schema = json.loads(json.dumps(schema).replace("</parameter>", markup.parameters.close))
    tool = Tool("f", parameters={"properties": {"a": schema}, "required": ["a"]}, strict=True)
    grammar = build_grammar(None, ToolOptions((tool,), "required", parallel=False), markup, lambda _: None)
    assert grammar.text is not None
    for value in (*valid, *invalid):
        arguments = json.dumps({"a": value})
        answer = write_calls(markup, [ToolCall("", "f", arguments)])
        # Where null is not valid, its text is a string.
        fits = value in valid or (value is None and not markup.parameters.after_name_of_json)
        assert allows(grammar.text, answer) is fits
        if value in valid:
            parts = parse(ToolCallParser(FORMATS[name].syntax, "whole answer", grammar.strings), *answer)
            assert parts == tool_call_parts(0, "f", arguments)


NODE = {"type": "object", "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}}}


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"properties": {"a": {}, "b": {}}, "required": ["b"]}, [{"b": 1}, {"a": 1, "b": 1}], [{}, {"a": 1}]),
        ({"properties": {"a": {}}, "required": ["z"]}, [{"z": 1}, {"a": 1, "z": "2"}], [{"a": 1}]),
        ({"properties": {"a": {}}}, [{}, {"a": 1}], [{"b": 1}]),
        ({"$ref": "#/$defs/node", "$defs": {"node": NODE}}, [{"next": {"next": {"value": 1}}}], [{"next": 1}]),
        ({"properties": {"of": {"$ref": "#"}, "n": {"type": "null"}}}, [{"of": {"of": {}}, "n": None}], [{"of": 1}]),
        (
            {"properties": {"a": {}, "b": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
            [{"a": 1}, {"b": 1}, {"a": 1, "b": 1}],
            [{}],
        ),
        (
            {
                "anyOf": [
                    {"properties": {"k": {"const": "x"}, "n": {"type": "integer"}}, "required": ["k"]},
                    {"properties": {"k": {"const": "y"}}, "required": ["k"], "additionalProperties": False},
                ]
            },
            [{"k": "x", "n": 1}, {"k": "x"}, {"k": "y"}],
            [{"k": "y", "n": 1}, {"k": "z"}, {}],
        ),
        (
            {"properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}},
            [{}, {"b": 1}, {"a": 1, "b": 1}],
            [{"a": 1}],
        ),
        (
            {"allOf": [{"properties": {"a": {"minimum": 3}}}, {"properties": {"a": {"type": "integer"}}}]},
            [{"a": 3}],
            [{"a": 2}],
        ),
    ],
)
def test_the_parameters_are_those_of_the_schema(
    schema: dict[str, Any], valid: list[dict[str, Any]], invalid: list[dict[str, Any]]
) -> None:
    assert [arguments for arguments in valid if not fits(schema, arguments)] == []
    assert [arguments for arguments in invalid if fits(schema, arguments)] == []


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"properties": {"a": {"type": "string", "format": "ipv6"}}}, "'format' at #/properties/a"),
        ({"minProperties": 1}, "'minProperties' at #"),
        ({"enum": [{"a": 1}]}, "'enum' at #"),
    ],
)
def test_what_tags_cannot_enforce_is_refused_or_reported(schema: dict[str, Any], keyword: str) -> None:
    with pytest.raises(BadRequest, match=f"'f' cannot be enforced: {keyword} "):
        build(schema)
    assert build(schema, strict=False).unenforced == (f"{keyword} of tool 'f'",)


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"properties": {"a<b": {}}}, "cannot have the name 'a<b'"),
        ({"properties": {"a": {"const": "b</parameter>"}}, "required": ["a"]}, "no values fit"),
    ],
)
def test_what_tags_cannot_write_is_refused(schema: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadRequest, match=problem):
        build(schema, strict=False)


def test_a_string_that_is_null_in_another_alternative_has_not_its_text() -> None:
    options = [{"properties": {"a": {"type": kind}, "k": {"const": kind}}} for kind in ("string", "null")]
    schema = {"anyOf": [{**option, "required": ["a", "k"]} for option in options]}
    assert fits(schema, {"a": None, "k": "null"})
    assert fits(schema, {"a": "x", "k": "string"})
    assert not fits(schema, {"a": None, "k": "string"})
    assert not fits(schema, {"a": "null", "k": "string"})


def call_of(name: ToolFormatName, choice: Literal["auto", "required"]) -> str:
    """Return the grammar of a call with one string, with special tokens."""
    tool = Tool("f", parameters={"properties": {"a": {"type": "string"}}, "required": ["a"]})
    text = build_grammar(None, ToolOptions((tool,), choice), FORMATS[name].markup, SPECIAL.get).text
    assert text is not None
    return text


@pytest.mark.parametrize("name", ["qwen3_coder", "glm45", "glm47", "ling3", "deepseek_v32", "deepseek_v4"])
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_closing_tag_may_be_a_special_token_or_spelled(
    name: ToolFormatName, choice: Literal["auto", "required"]
) -> None:
    grammar = call_of(name, choice)
    markup = FORMATS[name].markup
    assert markup.parameters is not None
    call = write_calls(markup, [ToolCall("", "f", '{"a": "</b </"}')])
    before, close, after = call.partition(markup.parameters.close)
    assert allows(grammar, tokens_of(call))
    assert allows(grammar, [*tokens_of(before), *close.encode(), *tokens_of(after)])
    assert not allows(grammar, tokens_of(before + close + after.replace(markup.tail, "x")))
    assert not allows(grammar, tokens_of(f"{before}<arg_key>{close}{after}"))


@pytest.mark.parametrize("text", ["", "a < b", "<", "<\nDSML", "</｜｜ >", "Well: <｜DSM"])
def test_text_with_the_beginning_of_a_trigger_is_free(text: str) -> None:
    assert allows(call_of("deepseek_v32", "auto"), text)


def test_a_trigger_that_begins_with_ordinary_text_only_begins_calls() -> None:
    grammar = call_of("deepseek_v32", "auto")
    assert not allows(grammar, tokens_of("a <｜DSML｜"))
    assert not allows(grammar, tokens_of("a <｜DSML｜b"))
    assert not allows(grammar, "a <｜DSML｜function_calls> b")
    assert allows(
        grammar, tokens_of("a < b" + write_calls(FORMATS["deepseek_v32"].markup, [ToolCall("", "f", '{"a": ""}')]))
    )
