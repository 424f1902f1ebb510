"""Schemas as pydantic and zod generate them for the types that people use, enforced strictly."""

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dragoman.core.errors import BadRequest
from dragoman.core.request import JsonSchemaFormat
from dragoman.output.grammar import build_grammar
from tests.support.grammars import allows, generate, validation_errors

LIBRARIES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "generated_schemas.json").read_text(encoding="utf-8")
)
REFUSED = {
    "jwt": "'format' at # is not supported ('jwt'",
    "PostgresDsn": "'format' at # is not supported ('multi-host-uri'",
    "IPv4Network": "'format' at # is not supported ('ipv4network'",
    "IPv4Interface": "'format' at # is not supported ('ipv4interface'",
    "Pattern": "'format' at # is not supported ('regex'",
    "set": "'uniqueItems' at # is not supported",
    "set_str": "'uniqueItems' at # is not supported",
}
"""Type → what its refusal says."""


def cases(*, refused: bool) -> list[Any]:
    return [
        pytest.param(name, schema, id=f"{library}-{name}")
        for library, types in LIBRARIES.items()
        for name, schema in types.items()
        if (name in REFUSED) is refused
    ]


def compiled(schema: Any) -> str:
    grammar = build_grammar(JsonSchemaFormat(schema, strict=True), None, None, lambda _: None).text
    assert grammar is not None
    return grammar


@pytest.mark.parametrize(("name", "schema"), cases(refused=False))
def test_documents_under_a_generated_schema_are_valid(name: str, schema: Any) -> None:
    grammar = compiled(schema)
    documents = [generate(grammar, Random(seed), 150) for seed in range(6)]
    if name == "emoji":  # Python's patterns have no properties
        assert all(re.fullmatch('"[^a-z]+"', document) for document in documents if document)
        return
    assert [error for document in documents if document for error in validation_errors(document, schema)] == []


@pytest.mark.parametrize(("name", "schema"), cases(refused=True))
def test_a_generated_schema_that_cannot_be_enforced_is_refused_by_name(name: str, schema: Any) -> None:
    with pytest.raises(BadRequest) as refused:
        compiled(schema)
    assert REFUSED[name] in refused.value.message


@pytest.mark.parametrize(
    ("library", "name", "valid", "invalid"),
    [
        (
            "pydantic 2.14.3",
            "Discriminated",
            ['{"pet_type": "cat", "meows": 3}', '{"pet_type": "dog", "barks": 0.5}'],
            ['{"pet_type": "cat", "barks": 0.5}', '{"pet_type": "cow", "meows": 3}'],
        ),
        (
            "pydantic 2.14.3",
            "DiscriminatedDefault",
            ['{"pet_type": "cat", "meows": 3}', '{"pet_type": "dog", "barks": 0.5}'],
            ['{"meows": 3}'],  # without a type it might be either
        ),
        ("pydantic 2.14.3", "set_enum", ["[]", '["blue", "red"]'], ['["red", "red"]', '["black"]']),
        ("pydantic 2.14.3", "dict_enum", ["{}", '{"red": 1}'], ['{"black": 1}', '{"red": "1"}']),
        ("pydantic 2.14.3", "dict_len", ['{"ab": 1}'], ['{"a": 1}']),
        (
            "pydantic 2.14.3",
            "UUID4",
            ['"3f2504e0-4f89-41d3-9a0c-0305e82c3301"'],
            ['"3f2504e0-4f89-11d3-9a0c-0305e82c3301"'],
        ),
        ("pydantic 2.14.3", "bytes", ['"any text"'], ["1"]),
        ("zod 4.6.7", "record", ["{}", '{"a b": 1.5}'], ['{"a": "1"}']),
        ("zod 4.6.7", "record_enum", ['{"a": 1, "b": 2}'], ['{"a": 1}', '{"a": 1, "b": 2, "c": 3}']),
        ("zod 4.6.7", "record_regex", ['{"k1": true}'], ['{"l1": true}', '{"k1": 1}']),
        ("zod 4.6.7", "never", ["{}"], ['{"a": 1}']),
        ("zod 4.6.7", "iso_duration", ['"P1DT2H"'], ['"P1W2D"', '"P"']),
        ("earlier versions", "zod 4.0 email", ['"a.b@c.de"'], ['"a..b@c.de"', '".a@b.cd"']),
        ("earlier versions", "pydantic 2.11 Decimal", ["1.5", '"-1.5"'], ['"-"', '"1e5"']),
    ],
)
def test_what_people_generate_is_enforced_exactly(
    library: str, name: str, valid: list[str], invalid: list[str]
) -> None:
    grammar = compiled(LIBRARIES[library][name])
    assert [document for document in valid if not allows(grammar, document)] == []
    assert [document for document in invalid if allows(grammar, document)] == []
