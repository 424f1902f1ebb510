"""Conversations as chat templates receive them: OpenAI's dictionaries, as in Hugging Face's transformers."""

import json
from collections.abc import Sequence
from typing import Any

from dragoman.core.request import Message, Tool, ToolCall


def message_fields(message: Message) -> dict[str, Any]:
    """Return a message's fields. Missing ones are left out, since templates test whether a field exists."""
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
    """Return a function's fields. A missing description becomes empty text, missing parameters an empty object."""
    function = {
        "name": tool.name,
        "description": tool.description or "",
        "parameters": {"type": "object", "properties": {}} if tool.parameters is None else tool.parameters,
    }
    return {"type": "function", "function": function}


def merge_system(messages: Sequence[Message]) -> list[Message]:
    """Move the text of all system messages in front of the first user message. Unchanged without a user message."""
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
    """Return an object, which most templates write as JSON themselves. Other arguments stay text."""
    try:
        arguments = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text
    return arguments if isinstance(arguments, dict) else text
