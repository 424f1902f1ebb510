"""The output format of an answer: `response_format`, vLLM's `structured_outputs`, or its older `guided_…` fields."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from dragoman.core.errors import BadRequest
from dragoman.core.request import AnswerFormat, GrammarFormat, JsonSchemaFormat, RegexFormat
from dragoman.dialects.http.validation import Violation, raise_violations
from dragoman.dialects.openai.parse import check_schema
from dragoman.dialects.vendors.infermatic import wire

_EMPTY = wire.StructuredOutputs()

_REGEX_METACHARACTERS = re.compile(r"[\\.+*?()|\[\]{}^$]")


class RequestedFormat(NamedTuple):
    """An output format and the field it was sent in."""

    field: str
    format: AnswerFormat


def requested_format(
    sent: wire.CompletionRequest, response_format: AnswerFormat | None = None
) -> RequestedFormat | None:
    """Return the request's output format; None: any text. Raises BadRequest for several, or for an empty field."""
    if sent.structured_outputs == _EMPTY:
        raise BadRequest("structured_outputs needs one of json, regex, choice and grammar", "structured_outputs")
    found = list(_requested_formats(sent))
    if response_format is not None:
        found.append(RequestedFormat("response_format", response_format))
    if len(found) > 1:
        fields = " and ".join(dict.fromkeys(requested.field for requested in found))
        raise BadRequest(f"An answer can be bound in one way only, got {len(found)} in {fields}", found[1].field)
    return found[0] if found else None


def _requested_formats(sent: wire.CompletionRequest) -> Iterator[RequestedFormat]:
    structured = sent.structured_outputs or _EMPTY
    for field, schema in (("structured_outputs", structured.json), ("guided_json", sent.guided_json)):
        if schema is not None:
            yield RequestedFormat(field, JsonSchemaFormat(_schema(field, schema), strict=True))
    for field, pattern in (("structured_outputs", structured.regex), ("guided_regex", sent.guided_regex)):
        if pattern is not None:
            yield RequestedFormat(field, RegexFormat(pattern))
    for field, texts in (("structured_outputs", structured.choice), ("guided_choice", sent.guided_choice)):
        if texts is not None:
            yield RequestedFormat(field, RegexFormat("|".join(map(_escape_regex, texts))))
    for field, grammar in (("structured_outputs", structured.grammar), ("guided_grammar", sent.guided_grammar)):
        if grammar is not None:
            yield RequestedFormat(field, GrammarFormat(grammar))


def _schema(field: str, sent: dict[str, Any] | str) -> dict[str, Any]:
    schema = _parse_schema(field, sent) if isinstance(sent, str) else sent
    violations: list[Violation] = []
    check_schema(schema, (field,), violations)
    raise_violations(violations)
    return schema


def _parse_schema(field: str, text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"{field} is a text, but not that of a JSON Schema: {error}", field) from error


def _escape_regex(text: str) -> str:
    """Escape a text. re.escape also escapes characters that must not be escaped in the engine's syntax."""
    return _REGEX_METACHARACTERS.sub(r"\\\g<0>", text)
