"""Tools in OpenAI's JSON: how a request offers functions, and how an answer calls them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dragoman.core.events import ToolCallDelta
from dragoman.core.request import Tool, ToolOptions
from dragoman.dialects.http.response_builder import ToolCallState
from dragoman.dialects.http.validation import FieldPath, InvalidValue, Violation

MAX_TOOLS = 128

# A bare $ would let a line break follow the name.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]
"""Of a function, or of a schema."""


class FunctionDefinition(msgspec.Struct, frozen=True):
    """`parameters` is a JSON Schema; without one the function takes nothing."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False
    """Refuse a schema that cannot be enforced to the letter."""


class ToolDefinition(msgspec.Struct, frozen=True):
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(msgspec.Struct, frozen=True):
    name: str


class NamedTool(msgspec.Struct, frozen=True):
    """Demands a call of one function."""

    type: Literal["function"]
    function: NamedFunction


Tools = Annotated[list[ToolDefinition], Meta(max_length=MAX_TOOLS)]
ToolChoice = Literal["none", "auto", "required"] | NamedTool


def validate_tools(tools: Sequence[ToolDefinition], choice: ToolChoice | None) -> Iterator[Violation]:
    """What the types of the two fields cannot say."""
    names: set[str] = set()
    for index, tool in enumerate(tools):
        name = tool.function.name
        if name in names:
            problem = InvalidValue(f"Names of tools must be unique, '{name}' is there twice")
            yield Violation(("tools", index, "function", "name"), problem)
        names.add(name)
        yield from validate_schema(tool.function.parameters, ("tools", index, "function", "parameters"))
    if choice == "required" and not tools:
        yield Violation(("tool_choice",), InvalidValue("tool_choice 'required' needs tools to choose from"))
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        problem = InvalidValue(f"None of the tools is called '{choice.function.name[:64]}'")
        yield Violation(("tool_choice", "function", "name"), problem)


def validate_schema(schema: object, path: FieldPath) -> Iterator[Violation]:
    """Numbers that JSON can say and an engine cannot be told. What else is wrong with a schema, the engine says."""
    try:
        msgspec.msgpack.encode(schema)
    except OverflowError:
        yield Violation(path, InvalidValue("The integers of a schema must fit into 64 bits"))


def tool_use(
    tools: Iterable[ToolDefinition], choice: ToolChoice | None, *, parallel: bool = True
) -> ToolOptions | None:
    """The tools and their choice as core has them; None where none may be called."""
    offered = tuple(
        Tool(function.name, function.description, function.parameters, function.strict)
        for function in (tool.function for tool in tools)
    )
    if not offered or choice == "none":
        return None
    if isinstance(choice, NamedTool):
        return ToolOptions(offered, "named", choice.function.name, parallel)
    return ToolOptions(offered, choice or "auto", None, parallel)


class FunctionCall(msgspec.Struct, frozen=True):
    name: str
    arguments: str
    """JSON text."""


class ToolCallBody(msgspec.Struct, frozen=True):
    """A call in an answer."""

    id: str
    type: str
    function: FunctionCall


class FunctionCallDeltaBody(msgspec.Struct, frozen=True, kw_only=True):
    """The name comes whole, and once; the arguments of all pieces are concatenated."""

    name: str | UnsetType = UNSET
    arguments: str


class ToolCallDeltaBody(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a call in a stream; `index` is the number of the call within its choice."""

    index: int
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: FunctionCallDeltaBody


def tool_call_bodies(calls: Iterable[ToolCallState]) -> list[ToolCallBody]:
    """Complete calls as clients read them."""
    return [ToolCallBody(call.id, "function", FunctionCall(call.name, call.arguments)) for call in calls]


def tool_call_delta_bodies(delta: ToolCallDelta) -> Iterator[ToolCallDeltaBody]:
    """A piece of a call as clients read it: the name comes before, and apart from, all arguments."""
    if delta.name is not None:
        named = FunctionCallDeltaBody(name=delta.name, arguments="")
        yield ToolCallDeltaBody(index=delta.call_index, id=delta.id or UNSET, type="function", function=named)
    if delta.arguments:
        yield ToolCallDeltaBody(index=delta.call_index, function=FunctionCallDeltaBody(arguments=delta.arguments))
