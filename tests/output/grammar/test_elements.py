"""Calls whose arguments are elements have the values that the schema allows, and are read as these."""

import contextlib
import json
from random import Random
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.request import Tool, ToolCall, ToolOptions
from dragoman.output.grammar import build_grammar
from dragoman.output.grammar.build import BuiltGrammar
from dragoman.output.parts import ToolCallArguments
from dragoman.output.tool_call_parser import ToolCallParser
from dragoman.prompt.tool_formats.format import write_calls
from dragoman.prompt.tool_formats.minimax_m3 import FORMAT, MARKUP
from tests.support.grammars import SPECIAL, allows, generate, tokens_of, validation_errors
from tests.support.output_parts import parse
from tests.support.schemas import json_schemas

TAG: Final = "]<]minimax[>["
UNION: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "object", "properties": {"kind": {"const": "c"}, "v": {"type": "string"}}, "required": ["kind", "v"]},
        {"type": "object", "properties": {"kind": {"const": 1}, "v": {"type": "integer"}}, "required": ["kind", "v"]},
        {"type": "array", "items": {"type": ["string", "null"]}, "minItems": 1},
    ]
}
NODE: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"leaf": {"type": "boolean"}, "nodes": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
    "required": ["leaf"],
    "additionalProperties": False,
}


def build(schema: Any, *, strict: bool = True, is_special: bool = False) -> BuiltGrammar:
    members = dict(schema) if isinstance(schema, dict) else schema
    definitions = members.pop("$defs", {}) if isinstance(members, dict) else {}
    parameters = {"type": "object", "properties": {"a": members}, "required": ["a"], "$defs": definitions}
    options = ToolOptions((Tool("f", parameters=parameters, strict=strict),), "required", parallel=False)
    return build_grammar(None, options, MARKUP, SPECIAL.get if is_special else lambda _: None)


def written(value: Any) -> str:
    return write_calls(MARKUP, [ToolCall("", "f", json.dumps({"a": value}))])


def arguments_of(grammar: BuiltGrammar, *answer: str) -> str:
    parts = parse(ToolCallParser(FORMAT.syntax, "whole answer", grammar.strings), *answer)
    return "".join(part.text for part in parts if isinstance(part, ToolCallArguments))


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"type": "string"}, ["Oslo", "3", "null", "", " a\n<b>]<", "true"], []),
        ({"type": "integer", "minimum": 2}, [2, 11], [1, 2.5, "x", ""]),
        ({"type": ["string", "integer"]}, ["x", 3, "", "3 ", "null"], []),
        ({"type": ["string", "null"]}, ["x", None, "", "nul", "3"], []),
        ({"type": ["boolean", "null"]}, [True, False, None], ["True", 0]),
        ({"enum": ["a b", 1, None, [1, "x"], {"k": [None]}]}, ["a b", 1, None, [1, "x"], {"k": [None]}], [[1], 2, {}]),
        ({"type": "array", "items": {"type": "string"}}, [[], ["3", "", "a"]], ["x"]),
        ({"prefixItems": [{"const": 1}], "items": {"const": 2}, "type": "array", "minItems": 1}, [[1, 2]], [[], [2]]),
        ({"type": "array", "items": {"type": "array", "items": {"type": "number"}}}, [[[], [1, 2.5]]], [[1]]),
        ({"type": "object", "properties": {"item": {"type": "null"}}}, [{}, {"item": None}], [{"item": 1}]),
        ({"type": "object", "additionalProperties": {"type": "boolean"}}, [{}, {"x": True}], [{"x": 1}]),
        ({"type": "object", "patternProperties": {"^x_": {"const": 1}}}, [{}, {"x_a": 1}], [{"y": 1}, {"x_a": 2}]),
        (UNION, [{"kind": "c", "v": "x"}, {"kind": 1, "v": 3}, ["x", None, ""]], [{"kind": "c", "v": 3}, {"kind": 1}]),
        ({"$ref": "#/$defs/node", "$defs": {"node": NODE}}, [{"leaf": True, "nodes": [{"leaf": False}]}], [{}]),
        (True, ["x", "3 a", 3, True, None, [], [{"b": [[], "x"]}], {"c": {"d": "e"}}], []),
    ],
)
def test_schemas_are_enforced_and_what_they_allow_is_read(schema: Any, valid: list[Any], invalid: list[Any]) -> None:
    grammar = build(schema)
    special = build(schema, is_special=True)
    assert grammar.text is not None
    assert special.text is not None
    for value in valid:
        answer = written(value)
        assert allows(grammar.text, answer), value
        assert allows(special.text, tokens_of(answer)), value
        assert not allows(special.text, answer), value
        expected = json.dumps({"a": value})
        assert [arguments_of(grammar, answer[:end], answer[end:]) for end in range(len(answer))] == [expected] * len(
            answer
        )
        assert arguments_of(grammar, *answer) == expected
    assert [value for value in invalid if allows(grammar.text, written(value))] == []


@settings(max_examples=12)
@given(schema=json_schemas(), seed=st.integers(0, 2**32), strict=st.booleans())
def test_generated_values_are_valid(schema: dict[str, Any], seed: int, strict: bool) -> None:
    with contextlib.suppress(BadRequest):  # a keyword, if strict, or a value that cannot be written
        grammar = build(schema, strict=strict)
        assert grammar.text is not None
        text = generate(grammar.text, Random(seed), 250)
        if text is not None:
            arguments = arguments_of(grammar, *text)
            assert validation_errors(json.dumps(json.loads(arguments)["a"]), schema) == [] or grammar.unenforced


def test_a_string_never_contains_what_stands_before_a_tag() -> None:
    grammar = build({"type": "string"}).text
    assert grammar is not None
    assert not allows(grammar, written("Os-lo").replace("-", TAG))
    with pytest.raises(ValueError, match="cannot be written"):
        written(f"Os{TAG}lo")


def test_a_name_that_cannot_be_written_is_refused() -> None:
    options = ToolOptions((Tool("f", parameters={"properties": {"a>b": {}}}),))
    with pytest.raises(BadRequest, match="cannot have the name 'a>b'"):
        build_grammar(None, options, MARKUP, lambda _: None)
