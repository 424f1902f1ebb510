"""One way of binding an answer, in three spellings."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.request import GrammarFormat, JsonObjectFormat, JsonSchemaFormat, RegexFormat
from dragoman.dialects.vendors.infermatic.codec import decode_chat, decode_text
from tests.support.dialects.decode_contexts import decode_context

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
JSON_OBJECT = {"type": "json_object"}


def requested(**fields: Any) -> object:
    """Return the format that both routes decode from the fields."""
    sent = {"model": "m", "prompt": "Once", "messages": [{"role": "user", "content": "Hi"}], **fields}
    [of_chat] = decode_chat(json.dumps(sent).encode(), decode_context()).requests
    [of_text] = decode_text(json.dumps(sent).encode(), decode_context()).requests
    assert of_chat.response_format == of_text.response_format or "response_format" in fields
    return of_chat.response_format


def refusal(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        requested(**fields)
    return caught.value


@pytest.mark.parametrize(
    ("member", "sent", "expected"),
    [
        ("json", SCHEMA, JsonSchemaFormat(SCHEMA, strict=True)),
        ("json", json.dumps(SCHEMA), JsonSchemaFormat(SCHEMA, strict=True)),
        ("regex", "[a-z]+", RegexFormat("[a-z]+")),
        ("choice", ["yes", "no"], RegexFormat("yes|no")),
        ("grammar", 'start: "a"', GrammarFormat('start: "a"')),
    ],
)
def test_both_spellings_reach_the_engine(member: str, sent: object, expected: object) -> None:
    assert requested(structured_outputs={member: sent}) == expected
    assert requested(**{f"guided_{member}": sent}) == expected


def test_both_spellings_may_say_the_same() -> None:
    # guidance sends both, for vLLMs of any age.
    for member, sent in (("json", SCHEMA), ("regex", "a"), ("choice", ["a", "b"]), ("grammar", 'start: "a"')):
        once = requested(structured_outputs={member: sent})
        assert requested(structured_outputs={member: sent}, **{f"guided_{member}": sent}) == once


def test_what_clients_of_llama_server_send_reaches_the_engine() -> None:
    assert requested(json_schema=SCHEMA) == JsonSchemaFormat(SCHEMA, strict=True)
    assert requested(grammar='root ::= "a"') == GrammarFormat('root ::= "a"')
    assert requested(response_format={"type": "json_object", "schema": SCHEMA}) == JsonSchemaFormat(SCHEMA, strict=True)
    assert requested(response_format={"type": "json_schema", "schema": SCHEMA}) == JsonSchemaFormat(SCHEMA, strict=True)


def test_without_a_format_any_text_is_allowed() -> None:
    assert requested() is None
    assert requested(response_format={"type": "text"}) is None
    assert requested(response_format={"type": "text"}, guided_regex="a") == RegexFormat("a")


def test_a_response_format_constrains_a_chat() -> None:
    assert requested(response_format=JSON_OBJECT) == JsonObjectFormat()


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=4), st.text(max_size=5))
def test_a_choice_is_a_regular_expression_for_just_its_texts(texts: list[str], other: str) -> None:
    made = requested(structured_outputs={"choice": texts})
    assert isinstance(made, RegexFormat)
    for text in (*texts, other):
        assert bool(re.fullmatch(made.pattern, text)) == (text in texts)


@pytest.mark.parametrize(
    ("fields", "parameter", "named"),
    [
        ({"guided_regex": "a", "guided_json": SCHEMA}, "guided_regex", "guided_json and guided_regex"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "structured_outputs"),
        ({"structured_outputs": {"regex": "a"}, "guided_regex": "b"}, "guided_regex", "structured_outputs and"),
        ({"structured_outputs": {"json": SCHEMA}, "guided_regex": "a"}, "guided_regex", "structured_outputs and"),
        ({"guided_grammar": "a", "response_format": JSON_OBJECT}, "response_format", "guided_grammar and"),
    ],
)
def test_two_at_once_are_rejected(fields: dict[str, Any], parameter: str, named: str) -> None:
    error = refusal(**fields)
    assert error.parameter == parameter
    assert error.message.startswith(f"An answer can be bound in one way only, got 2 in {named}")


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": None}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[1]"}, "guided_json"),
        ({"guided_json": [1]}, "guided_json"),
        ({"guided_json": {"maximum": 2**64}}, "guided_json"),
        ({"structured_outputs": {"json": '{"maximum": 18446744073709551616}'}}, "structured_outputs"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": [""]}, "guided_choice"),
    ],
)
def test_empty_formats_are_rejected(fields: dict[str, Any], parameter: str) -> None:
    assert refusal(**fields).parameter == parameter
