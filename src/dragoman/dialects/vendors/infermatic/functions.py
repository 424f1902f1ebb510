"""OpenAI's older API for tools, `functions` and `function_call`, in terms of the newer one."""

from collections.abc import Iterable, Iterator

import msgspec

from dragoman.core.request import ToolOptions
from dragoman.dialects.http.validation import FieldPath, InvalidValue, Violation
from dragoman.dialects.openai.parse import parse_tools
from dragoman.dialects.openai.wire import (
    AssistantToolCall,
    NamedFunction,
    NamedTool,
    ToolDefinition,
)
from dragoman.dialects.vendors.infermatic import wire


def parse_functions(sent: wire.ChatRequest, violations: list[Violation]) -> ToolOptions | None:
    """Convert functions to tools, of which an answer calls at most one; None where none may be called."""
    if sent.tools or sent.tool_choice is not None:
        problem = InvalidValue("functions and function_call are the older form of tools and tool_choice: send one form")
        violations.append(Violation(("functions" if sent.functions else "function_call",), problem))
    tools = [ToolDefinition("function", function) for function in sent.functions]
    choice = sent.function_call
    found: list[Violation] = []
    options = parse_tools(
        tools, NamedTool("function", choice) if isinstance(choice, NamedFunction) else choice, found, parallel=False
    )
    violations += [Violation(_older_path(violation.path), violation.problem) for violation in found]
    return options


def _older_path(path: FieldPath) -> FieldPath:
    """Convert the place of a mistake: tools[0].function.name → functions[0].name."""
    if path[0] == "tool_choice":
        return ("function_call", *path[2:])
    return ("functions", *path[1:2], *path[3:])


def with_tool_messages(messages: Iterable[wire.ReasoningChatMessage]) -> Iterator[wire.ReasoningChatMessage]:
    """Convert calls and results of functions in a conversation to those of tools, with ids of our own."""
    call_id = None
    for index, message in enumerate(messages):
        if message.function_call is not None and message.role == "assistant" and not message.tool_calls:
            # Nine letters and digits: some templates accept no other ids.
            call_id = f"call{index:05}"
            call = AssistantToolCall(call_id, message.function_call)
            yield msgspec.structs.replace(message, tool_calls=[call], function_call=None)
        elif message.role == "function":
            content = "" if message.content is None else message.content
            yield msgspec.structs.replace(message, role="tool", content=content, tool_call_id=call_id)
        else:
            yield message
