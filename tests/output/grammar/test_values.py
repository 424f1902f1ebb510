"""Calls with arguments that are no JSON have the values that the schema allows, and no others."""

import ast
import contextlib
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.request import Tool, ToolCall, ToolOptions
from dragoman.output.grammar import build_grammar
from dragoman.output.grammar.build import BuiltGrammar
from dragoman.output.markup import ToolFormatName
from dragoman.output.parts import ToolCallArguments, ToolCallStart
from dragoman.output.tool_call_parser import ToolCallParser
from dragoman.prompt.tool_formats import FORMATS
from dragoman.prompt.tool_formats.format import write_calls
from tests.support.grammars import SPECIAL, allows, generate, tokens_of, validation_errors
from tests.support.output_parts import parse, tool_call_parts
from tests.support.schemas import json_schemas, tools

SYNTAXES: list[ToolFormatName] = ["lfm2", "gemma4"]
"""One format of each syntax of values."""

GENERATED: dict[str, Any] = {
    f"{library}-{name}": schema
    for library, types in json.loads(
        (Path(__file__).parents[2] / "data" / "generated_schemas.json").read_text(encoding="utf-8")
    ).items()
    for name, schema in types.items()
}

REFUSED = {"jwt", "PostgresDsn", "IPv4Network", "IPv4Interface", "Pattern", "set", "set_str"}
"""Types whose schemas are refused in JSON too."""

REFUSED_WITHOUT_ESCAPES = {"ipv6", "IPv6", "IPvAny", "iso_duration", "timedelta"}


def build(name: ToolFormatName, schema: dict[str, Any], *, strict: bool = True) -> BuiltGrammar:
    tool = Tool("f", parameters=schema, strict=strict)
    return build_grammar(None, ToolOptions((tool,), "required", parallel=False), FORMATS[name].markup, lambda _: None)


def text_of(grammar: BuiltGrammar) -> str:
    assert grammar.text is not None
    return grammar.text


def written(name: ToolFormatName, arguments: dict[str, Any]) -> str:
    return write_calls(FORMATS[name].markup, [ToolCall("", "f", json.dumps(arguments))])


def holding(schema: Any) -> dict[str, Any]:
    """Return a schema of objects whose property `a` has this schema."""
    members = dict(schema) if isinstance(schema, dict) else {}
    definitions = {key: members.pop(key) for key in ("$defs", "definitions") if key in members}
    value = members if isinstance(schema, dict) else schema
    return {
        "type": "object",
        "properties": {"a": value},
        "required": ["a"],
        "additionalProperties": False,
        **definitions,
    }


def check_generated(name: ToolFormatName, schema: Any, seed: int, *, strict: bool) -> None:
    """Generate a call, parse it, and validate its arguments unless a keyword is named as not enforced."""
    grammar = build(name, schema, strict=strict)
    text = generate(text_of(grammar), Random(seed), 250)
    if text is None:
        return
    start, arguments, *_ = parse(ToolCallParser(FORMATS[name].syntax, "whole answer"), *text)
    assert start == ToolCallStart(0, "f")
    assert isinstance(arguments, ToolCallArguments)
    errors = validation_errors(arguments.text, schema)
    assert errors == [] or grammar.unenforced


@pytest.mark.parametrize("name", SYNTAXES)
@settings(max_examples=25)
@given(schema=json_schemas(), seed=st.integers(0, 2**32), strict=st.booleans())
def test_generated_values_are_valid(name: ToolFormatName, schema: dict[str, Any], seed: int, strict: bool) -> None:
    with contextlib.suppress(BadRequest):  # a keyword, if strict, or a value that cannot be written
        check_generated(name, holding(schema), seed, strict=strict)


@pytest.mark.parametrize("value", [[1e-07], {"a": 1e-05, "b": [0.1, -2.5e-09]}, [[5e-324, 123456789.125]]], ids=str)
def test_listed_values_may_have_numbers_that_python_writes_with_an_exponent(value: Any) -> None:
    assert build("pythonic", holding({"allOf": [{"const": value}]}), strict=False)


@settings(max_examples=25)
@given(schema=json_schemas(), seed=st.integers(0, 2**32))
def test_generated_calls_are_python_that_means_the_same(schema: dict[str, Any], seed: int) -> None:
    text = generate(text_of(build("pythonic", holding(schema), strict=False)), Random(seed), 250)
    if text is None:
        return
    [_, arguments, _] = parse(ToolCallParser(FORMATS["pythonic"].syntax), text)
    assert isinstance(arguments, ToolCallArguments)
    calls = ast.parse(text, mode="eval").body
    assert isinstance(calls, ast.List)
    [call] = calls.elts
    assert isinstance(call, ast.Call)
    assert not call.args
    values = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert values == json.loads(arguments.text)


@pytest.mark.parametrize("name", SYNTAXES)
@settings(max_examples=15)
@given(tool=tools(), seed=st.integers(0, 2**32))
def test_generated_arguments_are_valid(name: ToolFormatName, tool: Tool, seed: int) -> None:
    with contextlib.suppress(BadRequest):  # a name that cannot be written
        check_generated(name, tool.parameters or {"type": "object"}, seed, strict=False)


@pytest.mark.parametrize("name", SYNTAXES)
def test_values_under_schemas_of_libraries_are_valid(name: ToolFormatName) -> None:
    refused = set()
    for case, schema in GENERATED.items():
        if case.endswith("-emoji") or "#/" in json.dumps(schema).replace("#/$defs", "").replace("#/definitions", ""):
            continue  # a pattern that Python does not have; references to the whole schema
        try:
            check_generated(name, holding(schema), 1, strict=True)
        except BadRequest:
            refused.add(case.rpartition("-")[2])
    assert refused == (REFUSED if name == "lfm2" else REFUSED | REFUSED_WITHOUT_ESCAPES)


@pytest.mark.parametrize("name", SYNTAXES)
@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["éé", "a'\\"], ["a", "abcd", 12]),
        ({"type": "string", "pattern": "^[a-z]{2}|x$"}, ["ab1", "1x"], ["a", "x1"]),
        ({"type": "string", "format": "date"}, ["2024-12-31"], ["2024-02-30", "today"]),
        ({"type": ["boolean", "null"]}, [True, False, None], ["True", 0, "null"]),
        ({"enum": ["a b", 1, True, None]}, ["a b", 1, True, None], ["a", False, 0]),
        ({"enum": [[1, "x"], {"k": ["v", None]}]}, [[1, "x"], {"k": ["v", None]}], [[1], {}, "x"]),
        ({"enum": [{"k": 1}, {"q": 1}, 2], "required": ["k"]}, [{"k": 1}, 2], [{"q": 1}]),
        ({"type": "array", "uniqueItems": True, "items": {"enum": [True, "x"]}}, [[True, "x"], []], [["x", "x"]]),
        (
            {"anyOf": [{"enum": ["a", [1]]}, {"type": "object", "properties": {"k": {"const": None}}}]},
            ["a", [1], {"k": None}],
            ["b", [], {"k": 1}],
        ),
        ({"const": {"a b": {"": True}}}, [{"a b": {"": True}}], [{"a b": {}}]),
        ({"type": "integer", "minimum": 2, "maximum": 11}, [2, 11], [1, 12, 2.5]),
        ({"type": "array", "items": {"type": "boolean"}}, [[], [True], [False, True]], [[None], [1]]),
        (
            {"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 3},
            [[None] * 2, [None] * 3],
            [[None]],
        ),
        ({"type": "array", "maxItems": 0}, [[]], [[1]]),
        (
            {"prefixItems": [{"type": "boolean"}, {"type": "string"}], "items": False, "type": "array"},
            [[], [True], [True, "x"]],
            [["x"], [True, "x", 1]],
        ),
        (
            {"prefixItems": [{"const": 1}], "items": {"const": 2}, "type": "array", "minItems": 1},
            [[1], [1, 2, 2]],
            [[], [2]],
        ),
        ({"type": "array", "items": False}, [[]], [[1]]),
        (
            {"type": "object", "patternProperties": {"^x_": {"type": "null"}, "^y": {"const": 1}}},
            [{}, {"x_a": None, "y_n": 1, "x_b": None}],
            [{"x_a": 1}, {"yb": None}],
        ),
        (
            {"type": "object", "properties": {"a": {"type": "boolean"}}, "patternProperties": {"^x_": {}}},
            [{"a": True, "x_a": [None]}, {"x_a": 1}],
            [{"a": 1, "x_a": 1}],
        ),
        ({"type": "object", "additionalProperties": {"type": "boolean"}}, [{}, {"x": True, "y": False}], [{"x": 1}]),
        (
            {"type": "object", "properties": {"b": {"type": "boolean"}, "a": {}}, "required": ["b"]},
            [{"b": True}, {"b": True, "c": [1]}],
            [{}, {"a": 1}, {"b": 1}],
        ),
        (
            {
                "type": "object",
                "properties": {"k": {"const": 1}, "q": {"const": 2}, "z": {"const": None}},
                "additionalProperties": False,
            },
            [{}, {"k": 1}, {"q": 2}, {"z": None}, {"k": 1, "z": None}, {"k": 1, "q": 2, "z": None}],
            [{"z": 1}, {"x": 1}],
        ),
        (
            {
                "anyOf": [
                    {
                        "type": "object",
                        "properties": {"kind": {"const": "c"}, "r": {"type": "null"}},
                        "required": ["kind", "r"],
                        "additionalProperties": False,
                    },
                    {
                        "type": "object",
                        "properties": {"kind": {"type": "string"}, "s": {"type": "boolean"}},
                        "required": ["kind", "s"],
                        "additionalProperties": False,
                    },
                    {"enum": ["x", "y"]},
                ]
            },
            [{"kind": "c", "r": None}, {"kind": "c", "s": True}, {"kind": "d", "s": False}, "x"],
            [{"kind": "d", "r": None}, "z", {}],
        ),
        (
            {"allOf": [{"type": "array"}, {"items": {"type": ["boolean", "string"]}}, {"items": {"enum": [True, 2]}}]},
            [[True]],
            [[2], ["x"]],
        ),
    ],
)
def test_schemas_are_enforced_in_every_syntax(
    name: ToolFormatName, schema: dict[str, Any], valid: list[Any], invalid: list[Any]
) -> None:
    grammar = text_of(build(name, holding(schema)))
    assert [value for value in valid if not allows(grammar, written(name, {"a": value}))] == []
    assert [value for value in invalid if allows(grammar, written(name, {"a": value}))] == []


@pytest.mark.parametrize("name", SYNTAXES)
def test_properties_without_a_valid_value_are_left_out(name: ToolFormatName) -> None:
    text = {"type": "string", "pattern": "^a$", "maxLength": 0}
    impossible = {"type": "array", "prefixItems": [{"type": "boolean"}, text], "minItems": 2}
    values = {"b": {"const": 1}, "c": {"const": [True]}, "d": {"type": "object"}, "e": {"const": "x"}}
    schema: dict[str, Any] = {"properties": {"a": impossible, **values}, "additionalProperties": False}
    grammar = text_of(build(name, schema))
    whole = {"b": 1, "c": [True], "d": {"k": "v"}, "e": "x"}
    assert allows(grammar, written(name, whole))
    assert not allows(grammar, written(name, {**whole, "e": "y"}))
    assert not allows(grammar, written(name, {"a": [True, "a"], **whole}))
    with pytest.raises(BadRequest, match=r"nothing fits it|no values fit"):
        build(name, {**schema, "required": ["a"]})


@pytest.mark.parametrize("name", SYNTAXES)
def test_a_schema_that_refers_to_itself_is_enforced(name: ToolFormatName) -> None:
    node = {
        "type": "object",
        "properties": {"is_leaf": {"type": "boolean"}, "nodes": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
        "required": ["is_leaf"],
        "additionalProperties": False,
    }
    grammar = text_of(build(name, {**holding({"$ref": "#/$defs/node"}), "$defs": {"node": node}}))
    leaf: dict[str, Any] = {"is_leaf": True}
    assert allows(grammar, written(name, {"a": {"is_leaf": False, "nodes": [leaf, {**leaf, "nodes": [leaf]}]}}))
    assert not allows(grammar, written(name, {"a": {"is_leaf": False, "nodes": [leaf, {"nodes": [leaf]}]}}))


def test_references_do_not_repeat_all_definitions() -> None:
    definitions = {f"d{number}": {"enum": [f"v{number}_{index}" for index in range(20)]} for number in range(40)}
    properties = {name: {"$ref": f"#/$defs/{name}"} for name in definitions}
    grammar = text_of(build("lfm2", {"properties": properties, "$defs": definitions, "additionalProperties": False}))
    assert len(grammar) < 3 * len(json.dumps(definitions))
    assert allows(grammar, written("lfm2", {"d3": "v3_7", "d39": "v39_0"}))
    assert not allows(grammar, written("lfm2", {"d3": "v4_7"}))


def test_strings_of_python_may_have_either_quotes() -> None:
    grammar = text_of(build("lfm2", holding({"type": "string"})))
    assert allows(grammar, '<|tool_call_start|>[f(a="it\'s\\n")]<|tool_call_end|>')
    assert allows(grammar, "<|tool_call_start|>[f(a='say \"it\\'s\"\\n')]<|tool_call_end|>")
    assert not allows(grammar, "<|tool_call_start|>[f(a='it's')]<|tool_call_end|>")


def test_strings_between_tokens_never_contain_these() -> None:
    options = ToolOptions((Tool("f", parameters=holding({})),), "required", parallel=False)
    grammar = text_of(build_grammar(None, options, FORMATS["gemma4"].markup, SPECIAL.get))
    call = tokens_of('<|tool_call>call:f{a:<|"|>Os<"lo<|"|>}<tool_call|>')
    assert allows(grammar, call)
    assert not allows(grammar, [*call[:-4], SPECIAL['<|"|>'], *call[-4:]])
    assert not allows(grammar, [*call[:-4], *b'<|"|>', *call[-4:]])
    assert allows(grammar, tokens_of('<|tool_call>call:f{a:{b:[<|"|><|"|>,null]}}<tool_call|>'))


def test_names_are_sorted_where_the_templates_sort_them() -> None:
    schema = {"properties": {"b": {"const": 1}, "C": {"const": 2}, "a": {"const": 3}}, "additionalProperties": False}
    assert allows(text_of(build("gemma4", schema)), written("gemma4", {"a": 3, "b": 1, "C": 2}))
    assert not allows(text_of(build("gemma4", schema)), written("gemma4", {"b": 1, "a": 3}))
    assert allows(text_of(build("lfm2", schema)), written("lfm2", {"b": 1, "C": 2, "a": 3}))


@pytest.mark.parametrize("name", SYNTAXES)
@settings(max_examples=20)
@given(st.data())
def test_every_value_can_be_generated_where_anything_is_allowed(name: ToolFormatName, data: st.DataObject) -> None:
    names = st.from_regex("[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True)
    texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=9)
    value = data.draw(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.sampled_from([0.5, -1e-7, 1e16]) | texts,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
            max_leaves=6,
        )
    )
    answer = written(name, {"a": value})
    assert allows(text_of(build(name, holding({}))), answer)
    expected = tool_call_parts(0, "f", json.dumps({"a": value}, ensure_ascii=False))
    assert parse(ToolCallParser(FORMATS[name].syntax), *answer) == expected


@pytest.mark.parametrize("name", SYNTAXES)
def test_keywords_that_cannot_be_enforced_are_named_or_refused(name: ToolFormatName) -> None:
    schema = holding({"type": "array", "anyOf": [{"enum": [[1], [2]]}, {"items": {"const": 3}}]})
    assert build(name, schema, strict=False).unenforced == ("'enum' at # of tool 'f'",)
    with pytest.raises(BadRequest, match="'enum' at # is not supported in this model's calls"):
        build(name, schema)


def test_a_name_that_cannot_be_written_is_refused() -> None:
    schema: dict[str, Any] = {"properties": {"two words": {}}}
    with pytest.raises(BadRequest, match="this model's calls cannot have the name 'two words'"):
        build("lfm2", schema)
    grammar = text_of(build("gemma4", {**schema, "additionalProperties": False}))
    assert allows(grammar, written("gemma4", {"two words": 1}))


def test_an_answer_may_begin_with_a_bracket_that_opens_no_call() -> None:
    options = ToolOptions((Tool("f", parameters=holding({"type": "integer"})), Tool("g")))
    grammar = text_of(build_grammar(None, options, FORMATS["pythonic"].markup, lambda _: None))
    for text in ("[", "[f", "[Oslo](https://a.example)", "[1, 2]", "", "Well: [f(a=1)]", "[f(a=1)]", "[f(a=2), g()]"):
        assert allows(grammar, text), text
    for text in ("[f(b=1)]", "[h()]", "[f(a=1)", " [f(a=1)]", "[f(a=1)] Well.", "[f(x)](https://a.example)"):
        assert not allows(grammar, text), text
