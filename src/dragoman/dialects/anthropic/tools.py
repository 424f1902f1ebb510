"""Tools and their choice, converted to core's terms."""

import functools
from collections.abc import Sequence
from typing import Final, Literal

from dragoman.core import logs
from dragoman.core.request import Tool, ToolOptions
from dragoman.dialects.anthropic.wire import ToolChoiceParam, ToolParam
from dragoman.dialects.http.validation import InvalidValue, MissingField, Violation
from dragoman.dialects.openai.parse import MAX_TOOLS_BYTES, check_schema

_CUSTOM = "custom"

_CHOICES: Final[dict[str, Literal["auto", "required", "named"]]] = {"auto": "auto", "any": "required", "tool": "named"}

_MAX_NAME = 64
"""Characters of a client's own name in an error or in the log."""

_log = logs.get_logger(__name__)


def parse_tools(
    sent: Sequence[ToolParam], choice: ToolChoiceParam | None, violations: list[Violation]
) -> ToolOptions | None:
    """Convert the tools and their choice; None where no tool may be called.

    The vendor's own tools, which run on its servers or which only its models know, are skipped.
    """
    if not sent and choice is None:
        return None
    tools = {tool.name: tool for tool in _custom_tools(sent, violations) if tool.name is not None}
    if choice is None:
        choice = ToolChoiceParam("auto")
    if choice.type == "any" and not tools:
        problem = InvalidValue("There are no tools to choose from")
        violations.append(Violation(("tool_choice",), problem))
    if choice.type == "tool" and choice.name not in tools:
        problem = InvalidValue(f"Tool '{(choice.name or '')[:_MAX_NAME]}' not found in provided tools")
        violations.append(Violation(("tool_choice", "name"), problem))
    if not tools or choice.type == "none":
        return None
    return ToolOptions(
        tools=tuple(map(_to_core_tool, tools.values())),
        choice=_CHOICES[choice.type],
        name=choice.name if choice.type == "tool" else None,
        parallel=not choice.disable_parallel_tool_use,
    )


def _custom_tools(sent: Sequence[ToolParam], violations: list[Violation]) -> list[ToolParam]:
    custom: list[ToolParam] = []
    names: set[str] = set()
    size = 0
    for index, tool in enumerate(sent):
        if tool.type != _CUSTOM:
            _report_skipped(tool.type[:_MAX_NAME])
            continue
        if tool.name is None:
            violations.append(Violation(("tools", index, "name"), MissingField()))
            continue
        if tool.name in names:
            violations.append(Violation(("tools", index, "name"), InvalidValue("Tool names must be unique")))
        names.add(tool.name)
        size += check_schema(tool.input_schema, ("tools", index, "input_schema"), violations)
        custom.append(tool)
    if size > MAX_TOOLS_BYTES:
        problem = InvalidValue(f"The schemas of all tools have more than {MAX_TOOLS_BYTES} bytes together")
        violations.append(Violation(("tools",), problem))
    return custom


def _to_core_tool(tool: ToolParam) -> Tool:
    assert tool.name is not None, "tools without a name were left out"
    schema = (
        tool.input_schema
        if tool.input_schema is None or "type" in tool.input_schema
        else {
            "type": "object",
            **tool.input_schema,
        }
    )
    return Tool(tool.name, tool.description, schema, tool.strict)


@functools.lru_cache(maxsize=64)
def _report_skipped(kind: str) -> None:
    """Log a type of tools that is skipped, once."""
    _log.warning("tools_skipped", type=kind, reason="this server does not run the vendor's own tools")
