"""The tool format of a family of chat templates."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from dragoman.core.request import Message, Tool, ToolCall, ToolOptions
from dragoman.output.markup import ToolCallMarkup
from dragoman.output.tool_call_parser import ToolCallSyntax

Adapt = Callable[[Sequence[Message], ToolOptions | None], list[Message]]


def _unchanged(messages: Sequence[Message], _tools: ToolOptions | None) -> list[Message]:
    return list(messages)


class ToolFormat(msgspec.Struct, frozen=True, kw_only=True):
    """A family of templates."""

    markup: ToolCallMarkup
    syntax: ToolCallSyntax
    """The markup, prepared for parsing answers."""
    matches_template: Callable[[str], bool]
    """Whether a template's source, which mentions `tools`, is of this family."""
    adapt: Adapt = _unchanged
    """Adapts a conversation to the templates of this family."""
    template_writes_tools: bool = True
    """Whether the templates write tools, calls and results; otherwise `adapt` writes them as text."""


def write_calls(markup: ToolCallMarkup, calls: Iterable[ToolCall]) -> str:
    """Write calls as they stand in an answer."""
    written = (
        f"{markup.call_open}{markup.head(call.name)}{call.arguments or '{}'}{markup.tail}{markup.call_close}"
        for call in calls
    )
    return f"{markup.section_open}{markup.separator.join(written)}{markup.section_close}"


def tool_fields(tool: Tool) -> dict[str, Any]:
    """Return a function's fields. A missing description becomes empty text, missing parameters an empty object."""
    function = {
        "name": tool.name,
        "description": tool.description or "",
        "parameters": {"type": "object", "properties": {}} if tool.parameters is None else tool.parameters,
    }
    return {"type": "function", "function": function}
