"""Text generated under the grammar of a schema is valid under the schema."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.request import JsonSchemaFormat
from dragoman.output.grammar import build_grammar
from tests.support.grammars import generate, validation_errors
from tests.support.schemas import Schema, json_schemas


@settings(max_examples=100)
@given(schema=json_schemas(), seed=st.integers(0, 2**32))
def test_generated_documents_fit_their_schema(schema: Schema, seed: int) -> None:
    grammar = build_grammar(JsonSchemaFormat(schema, strict=True), None, None, lambda _: None).text
    assert grammar is not None
    text = generate(grammar, Random(seed))
    assert text is None or validation_errors(text, schema) == []


@settings(max_examples=100)
@given(schema=json_schemas(conditions=True), seed=st.integers(0, 2**32))
def test_generated_documents_fit_a_schema_with_conditions(schema: Schema, seed: int) -> None:
    try:  # conditions may contradict each other, or need what is not supported together
        grammar = build_grammar(JsonSchemaFormat(schema, strict=True), None, None, lambda _: None).text
    except BadRequest:
        return
    assert grammar is not None
    text = generate(grammar, Random(seed), 150)
    assert text is None or validation_errors(text, schema) == []
