"""The official JSON-Schema-Test-Suite, schema by schema."""

import contextlib
import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from jsonschema import Draft4Validator, Draft6Validator, Draft7Validator, Draft201909Validator, Draft202012Validator

from dragoman.core.errors import BadRequest
from dragoman.core.request import JsonSchemaFormat
from dragoman.output.grammar import build_grammar
from tests.support.grammars import allows, generate, validation_errors
from tools.schema_suite import DRAFTS, schema_for_draft, unpack

VALIDATORS = {
    "4": Draft4Validator,
    "6": Draft6Validator,
    "7": Draft7Validator,
    "2019-09": Draft201909Validator,
    "2020-12": Draft202012Validator,
}
GROUPS = unpack()


def enforced(draft: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the groups of a draft whose schemas are enforced, with their grammars; all others are rejected."""
    for group in GROUPS:
        if draft in group["drafts"]:
            with contextlib.suppress(BadRequest):
                grammar = build_grammar(
                    JsonSchemaFormat(schema_for_draft(group, draft), strict=True), None, None, lambda _: None
                ).text
                assert grammar is not None
                yield group, grammar


@pytest.mark.parametrize("draft", DRAFTS)
def test_no_invalid_document_can_be_generated(draft: str) -> None:
    for group, grammar in enforced(draft):
        for test in group["tests"]:
            document = json.dumps(test["data"], ensure_ascii=False)
            assert test["valid"] or not allows(grammar, document), (group["description"], document)


@pytest.mark.parametrize("draft", DRAFTS)
def test_every_document_that_is_generated_is_valid(draft: str) -> None:
    for group, grammar in enforced(draft):
        for seed in range(3):
            document = generate(grammar, Random(seed), 100)
            schema = schema_for_draft(group, draft)
            assert document is None or validation_errors(document, schema, VALIDATORS[draft]) == [], group[
                "description"
            ]
