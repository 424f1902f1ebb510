"""A conversation as chat templates see it: the dictionaries of Hugging Face's transformers, which are OpenAI's."""

import json
from collections.abc import Sequence
from typing import Any

from dragoman.core.request import Message, Tool, ToolCall


def message_fields(message: Message) -> dict[str, Any]:
    """A message; what it does not have is left out, since templates ask whether a field is there."""
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        fields["name"] = message.name
    if message.tool_calls:
        fields["tool_calls"] = [_call_fields(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    if message.reasoning is not None:
        fields["reasoning_content"] = fields["reasoning"] = message.reasoning
    return fields


def tool_fields(tool: Tool) -> dict[str, Any]:
    """A function. A missing description is empty, and a function without parameters has an empty object of them."""
    function = {
        "name": tool.name,
        "description": tool.description or "",
        "parameters": {"type": "object", "properties": {}} if tool.parameters is None else tool.parameters,
    }
    return {"type": "function", "function": function}


def merge_system(messages: Sequence[Message]) -> list[Message]:
    """The text of all system messages in front of the first user message; unchanged if there is none to take it."""
    system = [message.content for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    first_user = next((index for index, message in enumerate(rest) if message.role == "user"), None)
    if not system or first_user is None:
        return list(messages)
    user = rest[first_user]
    rest[first_user] = Message("user", "\n\n".join([*system, user.content]), user.name)
    return rest


def _call_fields(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": _arguments(call.arguments)},
    }


def _arguments(text: str) -> dict[str, Any] | str:
    """An object, which most templates write as JSON themselves; the text, if it is none."""
    try:
        arguments = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text
    return arguments if isinstance(arguments, dict) else text
