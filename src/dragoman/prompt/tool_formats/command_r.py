"""Command R and R+: a list of actions as JSON in a fence, of which one may be to answer directly.

Action:
```json
[
    {
        "tool_name": "get_weather",
        "parameters": {"city": "Oslo"}
    }
]
```

The templates demand such a list for every answer. An answer in text begins with a call of `directly-answer`, a function
that no request has, and the text follows it.
"""

from typing import Any

from dragoman.output.markup import ToolCallMarkup
from dragoman.output.text_element import TextElement
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="Action:",
    only_at_start=True,
    section_open="Action:\n```json\n[\n",
    head_before_name='    {\n        "tool_name": "',
    head_after_name='",\n        "parameters": ',
    tail="\n    }",
    separator=",\n",
    section_close="\n]\n```",
)

DIRECT_ANSWER = TextElement(
    opening=f"{MARKUP.section_open}{MARKUP.head('directly-answer')}{{}}{MARKUP.tail}{MARKUP.section_close}\n\n",
    function="directly-answer",
)
"""What stands before a text."""


_TYPES = ("string", "number", "integer", "boolean", "array", "object")
"""The types that the templates can write. They go round in circles with null."""


def describe_parameters(schema: dict[str, Any]) -> dict[str, Any]:
    """Give a function's parameters what the templates fail without: descriptions, and types that they know."""
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return schema
    known = {name: _typed(value) for name, value in properties.items()}
    described = {name: {**value, "description": value.get("description") or ""} for name, value in known.items()}
    return {**schema, "properties": described}


def _typed(schema: Any) -> dict[str, Any]:
    """Return the schema of a value with a known type, several, or None, which is written as Any."""
    known = schema if isinstance(schema, dict) else {}
    named = known.get("type")
    types = [each for each in (named if isinstance(named, list) else [named]) if each in _TYPES]
    members = {**known, "type": types if len(types) > 1 else types[0] if types else None}
    if "object" in types:
        members["additionalProperties"] = _typed(known.get("additionalProperties"))
    return members


FORMAT = ToolFormat(markup=MARKUP, adapt_parameters=describe_parameters)
