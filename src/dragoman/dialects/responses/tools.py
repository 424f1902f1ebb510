"""Tools of all kinds, as functions that a model can call."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from dragoman.core.errors import BadRequest
from dragoman.core.request import GrammarFormat, RegexFormat, Tool, ToolOptions
from dragoman.dialects.http.validation import (
    FieldPath,
    InvalidValue,
    Violation,
    convert_value,
    raise_violations,
)
from dragoman.dialects.openai.parse import MAX_TOOLS_BYTES, check_schema
from dragoman.dialects.openai.wire import Name

MAX_FUNCTIONS = 512
"""Functions that a request may have, members of namespaces included."""

CUSTOM_PARAMETER = "input"
"""The only parameter of the function that a custom tool becomes."""


class FunctionTool(msgspec.Struct, frozen=True, kw_only=True):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False


class CustomFormat(msgspec.Struct, frozen=True, kw_only=True):
    """What the input of a custom tool may be."""

    type: Literal["text", "grammar"]
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None


class CustomTool(msgspec.Struct, frozen=True, kw_only=True):
    name: Name
    description: str | None = None
    format: CustomFormat = CustomFormat(type="text")


class NamespaceTool(msgspec.Struct, frozen=True, kw_only=True):
    """Tools of one origin, such as an MCP server."""

    name: Name
    tools: list[dict[str, Any]] = []


class ToolOrigin(NamedTuple):
    """The tool that a function of the model stands for."""

    name: str
    is_custom: bool = False
    namespace: str = ""


class SentTools(NamedTuple):
    """The tools of a request."""

    tools: Sequence[Tool]
    """As the model sees them."""
    origins: Mapping[str, ToolOrigin]
    """By the name that the model sees."""
    echoed: list[dict[str, Any]]
    """As the response repeats them."""
    skipped: list[str]
    """The kinds of the tools that only another server has."""

    def seen_name(self, name: str, namespace: str = "") -> str | None:
        """Return the name under which the model sees a tool; None: there is no such tool."""
        return next(
            (
                seen
                for seen, origin in self.origins.items()
                if origin.name == name and (not namespace or origin.namespace == namespace)
            ),
            name if name in self.origins else None,
        )


def qualified_name(namespace: str, name: str) -> str:
    """Return the name of a namespace's member as the model sees it."""
    if not namespace or name.startswith(namespace):
        return name
    return f"{namespace}{'' if namespace.endswith('__') else '__'}{name}"


def parse_tools(sent: Sequence[tuple[FieldPath, dict[str, Any]]]) -> SentTools:
    """Convert the tools, each with its place. Tools of other servers are skipped. Raises BadRequest.

    A tool may be declared again, as Codex does: unchanged among the tools, and changed by a later item of the input.
    """
    found = SentTools([], {}, [], [])
    tools: dict[str, Tool] = {}
    origins: dict[str, ToolOrigin] = {}
    violations: list[Violation] = []
    for path, tool in sent:
        converted = list(_convert(tool, path, "", found.skipped))
        for converted_tool, origin in converted:
            before = tools.setdefault(converted_tool.name, converted_tool)
            is_changed = before != converted_tool and path[0] != "input"
            if is_changed or origins.setdefault(converted_tool.name, origin) != origin:
                problem = InvalidValue(f"Names of tools must be unique, '{converted_tool.name}' is there twice")
                violations.append(Violation((*path, "name"), problem))
            tools[converted_tool.name] = converted_tool
        if converted:
            found.echoed.append(_echoed(tool))
    if len(tools) > MAX_FUNCTIONS:
        problem = InvalidValue(f"A request has at most {MAX_FUNCTIONS} functions, got {len(tools)}")
        violations.append(Violation(("tools",), problem))
    if sum(check_schema(tool.parameters, ("tools",), violations) for tool in tools.values()) > MAX_TOOLS_BYTES:
        problem = InvalidValue(f"The tools' parameters have more than {MAX_TOOLS_BYTES} bytes together")
        violations.append(Violation(("tools",), problem))
    raise_violations(violations)
    return found._replace(tools=list(tools.values()), origins=origins)


def _convert(
    tool: dict[str, Any], path: FieldPath, namespace: str, skipped: list[str]
) -> Iterator[tuple[Tool, ToolOrigin]]:
    match tool.get("type"):
        case "function":
            function = convert_value(tool, FunctionTool, path)
            name = qualified_name(namespace, function.name)
            converted = Tool(name, function.description, function.parameters, function.strict)
            yield converted, ToolOrigin(function.name, namespace=namespace)
        case "custom":
            custom = convert_value(tool, CustomTool, path)
            name = qualified_name(namespace, custom.name)
            yield _custom_tool(custom, name), ToolOrigin(custom.name, is_custom=True, namespace=namespace)
        case "namespace" if not namespace:
            members = convert_value(tool, NamespaceTool, path)
            for index, member in enumerate(members.tools):
                yield from _convert(member, (*path, "tools", index), members.name, skipped)
        case kind:
            skipped.append(str(kind)[:40])


def _custom_tool(custom: CustomTool, name: str) -> Tool:
    """Return the function of one text that a custom tool becomes. Raises BadRequest."""
    text: dict[str, Any] = {"type": "string"}
    description = custom.description or ""
    sent = custom.format
    binding: RegexFormat | GrammarFormat | None = None
    if sent.type == "grammar":
        if sent.syntax is None or not sent.definition:
            raise BadRequest(f"The grammar of the custom tool '{name}' needs a syntax and a definition", "tools")
        description = f"{description}\n\nThe input must match this {sent.syntax}:\n{sent.definition}".strip()
        binding = RegexFormat(sent.definition) if sent.syntax == "regex" else GrammarFormat(sent.definition)
    parameters = {
        "type": "object",
        "properties": {CUSTOM_PARAMETER: text},
        "required": [CUSTOM_PARAMETER],
        "additionalProperties": False,
    }
    return Tool(name, description or None, parameters, text_format=binding)


def _echoed(tool: dict[str, Any]) -> dict[str, Any]:
    """Return a tool with all members that a response must have."""
    if tool["type"] != "function":
        return tool
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", **{name: tool.get(name) for name in names}}


def tool_options(
    tools: SentTools, choice: str | Mapping[str, Any] | None, *, parallel: bool
) -> tuple[ToolOptions | None, str | dict[str, Any]]:
    """Return the options of the tools, None where none may be called, and the choice as the response repeats it.

    A choice of a tool that only another server has is `auto`. Raises BadRequest.
    """
    if not (choice is None or isinstance(choice, str)):
        return _controlled(tools, choice, parallel=parallel)
    if choice == "required" and not tools.tools:
        if not tools.skipped:
            raise BadRequest("tool_choice 'required' needs tools to choose from", "tool_choice")
        choice = "auto"
    echoed = choice or "auto"
    if not tools.tools or choice == "none":
        return None, echoed
    return ToolOptions(tuple(tools.tools), "required" if choice == "required" else "auto", parallel=parallel), echoed


def _controlled(
    tools: SentTools, choice: Mapping[str, Any], *, parallel: bool
) -> tuple[ToolOptions | None, str | dict[str, Any]]:
    match choice:
        case {"type": "function" | "custom", "name": str(name)}:
            seen = tools.seen_name(name, str(choice.get("namespace") or ""))
            if seen is None:
                raise BadRequest(f"None of the tools is called '{name[:64]}'", "tool_choice")
            return ToolOptions(tuple(tools.tools), "named", seen, parallel), dict(choice)
        case {"type": "allowed_tools", "tools": list(listed)}:
            mode = choice.get("mode") or "auto"
            allowed = tuple(_allowed_names(tools, listed))
            if mode not in ("auto", "required"):
                raise BadRequest("tool_choice.mode must be one of auto, required", "tool_choice")
            echoed = {"type": "allowed_tools", "tools": listed, "mode": mode}
            if not allowed:
                return None, echoed
            options = ToolOptions(
                tuple(tools.tools), "required" if mode == "required" else "auto", parallel=parallel, allowed=allowed
            )
            return options, echoed
        case {"type": "function" | "custom" | "allowed_tools"}:
            raise BadRequest("tool_choice needs the name of a tool, or a list of allowed tools", "tool_choice")
    return tool_options(tools, "auto", parallel=parallel)


def _allowed_names(tools: SentTools, listed: Sequence[object]) -> Iterator[str]:
    for entry in listed:
        match entry:
            case {"type": "function" | "custom", "name": str(name)}:
                seen = tools.seen_name(name)
                if seen is None:
                    raise BadRequest(f"None of the tools is called '{name[:64]}'", "tool_choice")
                yield seen
            case {"type": "namespace", "name": str(name)}:
                yield from (seen for seen, origin in tools.origins.items() if origin.namespace == name)
