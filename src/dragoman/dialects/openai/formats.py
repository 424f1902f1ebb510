"""`response_format` in OpenAI's JSON: what an answer's text must be."""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from dragoman.core.request import AnswerFormat, JsonObjectFormat, JsonSchemaFormat
from dragoman.dialects.http.validation import MissingField, Violation
from dragoman.dialects.openai.tools import Name, validate_schema


class JsonSchema(msgspec.Struct, frozen=True):
    """`name` and `description` are for people: the schema alone binds the answer."""

    name: Name
    description: str | None = None
    schema: dict[str, Any] | bool = True
    """Absent: any JSON value."""
    strict: bool = False
    """Refuse a schema that cannot be enforced to the letter."""


class ResponseFormat(msgspec.Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    """Required for the type of this name."""


def validate_response_format(sent: ResponseFormat | None) -> Iterator[Violation]:
    """What the types of `response_format` cannot say."""
    if sent is None or sent.type != "json_schema":
        return
    if sent.json_schema is None:
        yield Violation(("response_format", "json_schema"), MissingField())
    else:
        yield from validate_schema(sent.json_schema.schema, ("response_format", "json_schema", "schema"))


def answer_format(sent: ResponseFormat | None) -> AnswerFormat | None:
    """A format without a violation, in core's terms; None: any text."""
    if sent is None or sent.type == "text":
        return None
    if sent.type == "json_object":
        return JsonObjectFormat()
    assert sent.json_schema is not None, "else it is a violation"
    return JsonSchemaFormat(sent.json_schema.schema, sent.json_schema.strict)
