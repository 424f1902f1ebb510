import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.request import JsonSchemaFormat
from dragoman.output.grammar import build_grammar
from dragoman.output.grammar.schema import UNENFORCED, enforceable_schema
from dragoman.output.grammar.time_limit import TookTooLong, limited_time
from tests.support.grammars import allows


def compiled(schema: Any, *, strict: bool) -> str:
    grammar = build_grammar(JsonSchemaFormat(schema, strict=strict), None, None, lambda _: None).text
    assert grammar is not None
    return grammar


def rejection(schema: Any, *, strict: bool = True) -> str:
    with pytest.raises(BadRequest) as refused:
        compiled(schema, strict=strict)
    assert refused.value.parameter == "response_format"
    return refused.value.message


@pytest.mark.parametrize("keyword", sorted(UNENFORCED))
def test_a_keyword_that_is_never_enforced_is_refused_with_its_pointer(keyword: str) -> None:
    schema = {"properties": {"a/b": {"items": {keyword: {"type": "string"}, "then": {}}}}}
    message = rejection(schema)
    assert message == f"The schema cannot be enforced: '{keyword}' at #/properties/a~1b/items is not supported"
    assert allows(compiled(schema, strict=False), '{"a/b": [1]}')


@pytest.mark.parametrize(
    "schema",
    [
        {"uniqueItems": False},
        {"if": {"minimum": 3}},
        {"then": {"minimum": 3}, "else": {"minimum": 3}},
        {"minContains": 2},
        {"x-order": 3, "nullable": True, "title": "T", "default": 7, "$comment": "c", "readOnly": True},
        {"type": "integer", "format": "int32"},
        {"x-guidance": {"whitespace_flexible": True, "lenient": True}},
    ],
)
def test_keywords_without_effect_are_ignored(schema: dict[str, Any]) -> None:
    rewritten = enforceable_schema(schema, strict=True, parameter="tools").schema
    assert rewritten == {key: value for key, value in schema.items() if key == "type"}


@pytest.mark.parametrize("nested", [False, True])
def test_a_client_cannot_change_the_style(nested: bool) -> None:
    options = {"x-guidance": {"item_separator": ",", "key_separator": ":", "whitespace_flexible": True}}
    schema = {"properties": {"a": options}, "required": ["a"]} if nested else {**options, "required": ["a"]}
    grammar = compiled(schema, strict=True)
    assert allows(grammar, '{"a": {"b": [1, 2]}}')
    assert not allows(grammar, '{"a":{"b":[1,2]}}')
    assert not allows(grammar, '{ "a": 1}')


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"format": "color"}, "'format' at # is not supported ('color' is none of date,"),
        ({"pattern": "(?<=a)b"}, "'pattern' at # is not supported (in the pattern '(?<=a)b', look-behind"),
        ({"uniqueItems": True}, "'uniqueItems' at # is not supported (it is enforced only where 'items' has a"),
        ({"not": {"const": {"a": 1}}}, "'not' at # is not supported (the negation of an object is not supported)"),
        ({"not": {"multipleOf": 3}}, "'not' at # is not supported (the negation of 'multipleOf' is not supported)"),
        ({"const": "\x00"}, "'const' at # is not supported (it has control characters)"),
        ({"enum": [1, 2**60]}, "'enum' at # is not supported (it has a number that is not exact as a double)"),
        ({"minimum": 1e300}, "'minimum' at # is not supported (it is not exact as a double)"),
        ({"multipleOf": 12345.67}, "'multipleOf' at # is not supported (without its point it is over 10000"),
        ({"allOf": [{"multipleOf": n} for n in (9973, 9967, 9949)]}, "'multipleOf' at #/allOf/1 is not supported"),
        (
            {"properties": {"a": {}}, "minProperties": 1},
            "'minProperties' at # is not supported (it is enforced only where",
        ),
        ({"minProperties": 2}, "'minProperties' at # is not supported (it is enforced only up to"),
        ({"patternProperties": {"^a": {}}, "required": ["ab"]}, "'^a' fits 'ab', which stands in"),
        ({"patternProperties": {"^a": {}, "b$": {}}}, "'patternProperties' is not supported here: two of its patterns"),
        ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, "'oneOf' is not supported here: two of its options"),
        ({"$schema": "https://example.com/mine"}, "'$schema' at # is not supported (only the drafts"),
    ],
)
def test_a_keyword_beyond_its_limit_is_omitted_or_refused_if_strict(schema: dict[str, Any], message: str) -> None:
    assert message in rejection(schema)
    for document in ("null", '"b"', "0"):
        assert allows(compiled(schema, strict=False), document)


PET = {"type": "object", "properties": {"kind": {"enum": ["cat", "dog"]}, "lives": {}}, "required": ["kind"]}


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"not": {"const": "a"}}, ['"b"', '"aa"', '""', "1", "null", "[]"], ['"a"']),
        ({"not": {"enum": [1, 3, "x.y", None]}}, ["2", "0", "4", '"x_y"', "true"], ["1", "3", '"x.y"', "null"]),
        ({"type": "boolean", "not": {"const": True}}, ["false"], ["true"]),
        ({"not": {"type": ["string", "null"]}}, ["1", "{}", "[]"], ['"a"', "null"]),
        ({"type": "integer", "not": {"minimum": 3, "maximum": 5}}, ["2", "6"], ["3", "4", "5"]),
        ({"type": "string", "not": {"pattern": "b"}}, ['"ac"'], ['"abc"']),
        ({"type": "string", "not": {"minLength": 2}}, ['"a"'], ['"ab"']),
        ({"type": "array", "items": {"type": "integer"}, "not": {"maxItems": 1}}, ["[1, 2]"], ["[]", "[1]"]),
        ({"type": "object", "not": {"required": ["a", "b"]}}, ['{"a": 1}', '{"c": 1}'], ['{"a": 1, "b": 2}']),
        ({"not": {"anyOf": [{"type": "string"}, {"not": {"const": 1}}]}}, ["1"], ['"a"', "2"]),
        ({"not": {"$ref": "#/$defs/a"}, "$defs": {"a": {"const": "a"}}}, ['"b"'], ['"a"']),
        (
            {
                **PET,
                "if": {"properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
                "then": {"required": ["lives"]},
                "else": {"properties": {"lives": False}},
            },
            ['{"kind": "cat", "lives": 9}', '{"kind": "dog"}'],
            ['{"kind": "cat"}', '{"kind": "dog", "lives": 9}'],
        ),
        (
            {"type": "object", "properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}},
            ["{}", '{"b": 1}', '{"a": 1, "b": 1}'],
            ['{"a": 1}'],
        ),
        (
            {"type": "object", "properties": {"a": {}, "b": {}}, "dependencies": {"b": {"properties": {"a": False}}}},
            ["{}", '{"a": 1}', '{"b": 1}'],
            ['{"a": 1, "b": 1}'],
        ),
        ({"propertyNames": {"pattern": "^x", "maxLength": 2}}, ["{}", '{"xy": 1}', "3"], ['{"xyz": 1}', '{"a": 1}']),
        ({"type": "object", "propertyNames": False}, ["{}"], ['{"a": 1}']),
        (
            {"uniqueItems": True, "items": {"enum": [1, 2, 1.0]}, "minItems": 1},
            ["[1]", "[2, 1]", '"a"'],
            ["[]", "[1, 1]", "[1, 2, 1]"],
        ),
        (
            {"type": "array", "uniqueItems": True, "items": {"enum": list("abcdefgh")}},
            ['["a", "c"]', '["b"]'],
            ['["a", "a"]', '["i"]'],
        ),
        (
            {"oneOf": [{"type": "integer", "maximum": 3}, {"$ref": "#/$defs/x"}], "$defs": {"x": {"minimum": 4}}},
            ["3", "4", '"a"'],
            [],
        ),
        (
            {"oneOf": [{"properties": {"a": {"maxLength": 2}}, "type": "object"},
                       {"properties": {"a": {"type": "string", "minLength": 3}, "b": {}}, "required": ["a"],
                        "type": "object"}]},
            ['{"a": "ab"}', '{"a": "abc", "b": 1}'],
            [],
        ),
        ({"type": "string", "pattern": r"^(?!a).*[a-c]$", "maxLength": 3}, ['"bc"'], ['"ac"', '"bd"', '"bbbc"']),
        ({"type": "string", "format": "cuid", "pattern": "^c"}, ['"c1"'], ['"d1"']),
    ],
)  # fmt: skip
def test_a_condition_is_enforced_exactly(schema: dict[str, Any], valid: list[str], invalid: list[str]) -> None:
    grammar = compiled(schema, strict=True)
    assert [document for document in valid if not allows(grammar, document)] == []
    assert [document for document in invalid if allows(grammar, document)] == []


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "text"}, "The schema is invalid: 'type' at # must be one or several of null, boolean,"),
        ({"type": []}, "'type' at #"),
        ({"properties": {"a": 3}}, "#/properties/a must be a schema"),
        ({"properties": [1]}, "'properties' at # must be an object"),
        ({"anyOf": []}, "'anyOf' at # must be an array of schemas, and not empty"),
        ({"minLength": -1}, "'minLength' at # must be an integer, and not negative"),
        ({"minItems": 1.5}, "'minItems' at #"),
        ({"maximum": "3"}, "'maximum' at # must be a number"),
        ({"multipleOf": 0}, "'multipleOf' at # must be greater than 0"),
        ({"required": "a"}, "'required' at # must be an array of strings"),
        ({"enum": {}}, "'enum' at # must be an array"),
        ({"dependentSchemas": [1]}, "'dependentSchemas' at # must be an object"),
        ({"format": 3}, "'format' at # must be a string"),
        ({"$ref": 3}, "'$ref' at # must be a string"),
        ({"pattern": "("}, "'pattern' at # has the pattern '(', which is wrong: it opens a group"),
        ({"$ref": "#/nowhere"}, "'$ref' at # refers to '#/nowhere', and there is nothing there"),
        ({"$ref": "https://example.com/s.json"}, "only places inside the schema itself can be referred to"),
        ({"$ref": "#name"}, "there is no such anchor"),
        ({"$id": "https://example.com", "$ref": "http://["}, "is no URI"),
        ({"type": 3, "format": "x"}, "'type' at #"),
        ({"const": float("nan")}, "is no JSON"),
        ({"const": "\ud800"}, "is no JSON"),
        ([], "# must be a schema"),
        (False, "fits nothing"),
        ({"enum": []}, "fits nothing"),
        ({"$ref": "#"}, "fits nothing"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "fits nothing"),
        ({"type": "array", "minItems": 1, "items": {"$ref": "#"}}, "fits nothing"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "nothing fits it: minimum (3) is greater than maximum (2)"),
        ({"type": "string", "pattern": "^a$", "minLength": 2}, "nothing fits it"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "nothing fits it"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_an_invalid_or_unsatisfiable_schema_is_refused_either_way(schema: Any, message: str, strict: bool) -> None:
    assert message in rejection(schema, strict=strict)


@pytest.mark.parametrize("schema", [True, {}, {"$defs": {"unused": {"type": "nonsense"}}}])
def test_a_schema_without_constraints_is_any_json(schema: Any) -> None:
    grammar = compiled(schema, strict=True)
    assert all(allows(grammar, text) for text in ("null", "-1.5e3", '"é\\n"', '[1, "a"]', '{"a": {}}'))
    assert not allows(grammar, "")


def test_references_may_have_any_target_in_the_schema() -> None:
    schema = {
        "$id": "https://example.com/root.json",
        "type": "object",
        "properties": {
            "a": {"$ref": "#/components/schemas/int~1"},
            "b": {"$ref": "#/properties/a"},
            "c": {"$ref": "root.json#/%24defs/text"},
            "d": {"$ref": "#named"},
            "e": {"$ref": "#"},
        },
        "components": {"schemas": {"int/": {"type": "integer", "title": "T"}}},
        "$defs": {"text": {"type": "string"}, "n": {"$anchor": "named", "const": 1}},
        "additionalProperties": False,
    }
    grammar = compiled(schema, strict=True)
    assert allows(grammar, '{"a": 1, "b": 2, "c": "", "d": 1, "e": {"a": 3}}')
    for document in ('{"a": "x"}', '{"b": "x"}', '{"c": 1}', '{"d": 2}', '{"e": 1}'):
        assert not allows(grammar, document)


def test_schemas_of_old_drafts_keep_their_meaning() -> None:
    draft_4 = {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 3, "exclusiveMinimum": True}
    assert not allows(compiled({**draft_4, "type": "integer"}, strict=True), "3")
    tuples = {"type": "array", "items": [{"type": "integer"}], "additionalItems": {"type": "string"}}
    assert allows(compiled(tuples, strict=True), '[1, "a"]')
    assert not allows(compiled(tuples, strict=True), "[1, 1]")
    draft_7 = {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {"type": "integer"}}}
    sibling = {**draft_7, "properties": {"b": {"$ref": "#/definitions/a", "maximum": 1}}}
    assert allows(compiled(sibling, strict=True), '{"b": 2}')


def test_a_name_has_one_spelling_and_appears_once() -> None:
    grammar = compiled({"type": "object", "properties": {"a": {"type": "integer"}}}, strict=True)
    assert allows(grammar, '{"a": 1, "b": 2}')
    assert not allows(grammar, '{"a": 1, "a": 2}')
    assert not allows(grammar, '{"\\u0061": "x"}')


def test_properties_of_omitted_patterns_are_not_forbidden() -> None:
    schema = {"patternProperties": {"(?=a)": {"type": "integer"}}, "additionalProperties": False, "type": "object"}
    assert allows(compiled(schema, strict=False), '{"a": 1}')


@pytest.mark.parametrize(
    "schema",
    [
        {
            "$ref": "#/$defs/0",
            "$defs": {str(i): {"properties": {"a": {"$ref": f"#/$defs/{i + 1}"}}} for i in range(5000)},
        },
        {"$defs": {str(i): {"allOf": [{"$ref": f"#/$defs/{i + 1}"}]} for i in range(2000)}, "$ref": "#/$defs/0"},
        json.loads('{"items":' * 400 + "{}" + "}" * 400),
        json.loads('{"const":' + "[" * 900 + "]" * 900 + "}"),
        {"properties": {f"p{i}": {} for i in range(3000)}},
        {"enum": [f"{i:09}" for i in range(20_000)]},
        {"type": "object", "required": [f"p{i}" for i in range(50_000)]},
        {"minLength": 10**30},
        {"pattern": "((((a{90}){90}){90}){90}){90}"},
        {"pattern": "(" * 5000 + ")" * 5000},
        {"pattern": "a" * 200_000, "minLength": 300_000},
        {"patternProperties": {f"^({'a?' * 30}{i})+$": {} for i in range(200)}, "required": ["a" * 1000] * 200},
        {"allOf": [{"anyOf": [{"properties": {f"{i}.{j}": {}}} for j in range(6)]} for i in range(9)]},
        {"allOf": [{"type": "string", "pattern": "^(.*a.{9}b)$"}, {"pattern": "^.*b.{9}c$"}, {"maxLength": 50}]},
    ],
)
def test_a_schema_that_would_crash_or_stall_the_compiler_is_refused(schema: Any) -> None:
    with pytest.raises(BadRequest):
        compiled(schema, strict=True)


ODD_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.sampled_from(["", "a", "#", "object", "string", "^a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "$ref", "type", "items"]), inner, max_size=3)
    ),
    max_leaves=4,
)
KEYWORDS = [
    *("type", "const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minLength", "maxLength", "pattern", "format", "minItems", "maxItems", "items", "prefixItems", "additionalItems"),
    *("minProperties", "maxProperties", "required", "properties", "patternProperties", "additionalProperties"),
    *("allOf", "anyOf", "oneOf", "$ref", "$defs", "$id", "id", "$anchor", "$schema", "x-guidance", "not", "if"),
]
ODD_SCHEMAS = st.recursive(
    ODD_VALUES | st.dictionaries(st.sampled_from(KEYWORDS), ODD_VALUES, max_size=3),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=3),
        st.lists(inner, max_size=2),
        st.dictionaries(st.sampled_from(["a", "^b"]), inner, max_size=2),
    ),
    max_leaves=8,
)


@settings(max_examples=150)
@given(schema=ODD_SCHEMAS, strict=st.booleans())
def test_any_json_is_a_schema_that_is_enforced_or_refused(schema: Any, strict: bool) -> None:
    with contextlib.suppress(BadRequest):
        compiled(schema, strict=strict)


@pytest.mark.parametrize("keyword", ["not", "if"])
def test_references_that_multiply_where_they_are_negated_are_refused(keyword: str) -> None:
    levels = {f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 30} for level in range(8)}
    definitions = {**levels, "d8": {"type": "string", "minLength": 2}}
    schema = {"$defs": definitions, keyword: {"$ref": "#/$defs/d0"}, "then": {"minLength": 3}}
    assert "follows more than 2000 references" in rejection(schema, strict=False)


COSTLY_PATTERN = {"type": "string", "pattern": "^(?!.*a.{7}$).*b.{7}$"}


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": COSTLY_PATTERN}},
        {"not": COSTLY_PATTERN},
        {"oneOf": [{"enum": list(range(first, first + 300))} for first in range(0, 42_000, 300)]},
    ],
)
def test_the_time_for_a_schema_is_bounded(schema: dict[str, Any]) -> None:
    with limited_time(0.02), pytest.raises(TookTooLong):
        enforceable_schema(schema, strict=False, parameter="tools")


def test_a_schema_that_takes_too_long_is_refused() -> None:
    with limited_time(0):
        assert "takes more than 2 s" in rejection({"properties": {"a": COSTLY_PATTERN}})
