"""Conversations in OpenAI's JSON."""

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from dragoman.core.request import Message, ToolCall
from dragoman.dialects.http.validation import FieldPath, InvalidValue, MissingField, Violation


class ContentPart(msgspec.Struct, frozen=True):
    """One part of a message's content. Only parts of type `text` are understood."""

    type: str
    text: str | None = None


class AssistantFunctionCall(msgspec.Struct, frozen=True):
    name: str
    arguments: str = "{}"
    """JSON text."""


class AssistantToolCall(msgspec.Struct, frozen=True):
    """A call that an earlier answer made."""

    id: str
    function: AssistantFunctionCall
    type: Literal["function"] = "function"


class ChatMessage(msgspec.Struct, frozen=True):
    """One message as clients send it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    """Required, but for an assistant's message with tool calls."""
    name: str | None = None
    tool_calls: list[AssistantToolCall] | None = None
    tool_call_id: str | None = None
    """Of a tool's message: the call it answers."""
    reasoning: str | None = None
    """Of an earlier answer. Only the templates of thinking models use it."""


def validate_messages(messages: Iterable[ChatMessage]) -> Iterator[Violation]:
    """What the types of `messages` cannot say."""
    for index, message in enumerate(messages):
        path = ("messages", index)
        if message.tool_calls and message.role != "assistant":
            yield Violation((*path, "tool_calls"), InvalidValue("Only an assistant's message has tool calls"))
        if message.content is None and not message.tool_calls:
            yield Violation((*path, "content"), MissingField())
        elif isinstance(message.content, list):
            yield from _validate_parts(message.content, (*path, "content"))


def to_core_messages(messages: Iterable[ChatMessage]) -> tuple[Message, ...]:
    """Messages without a violation, in core's terms."""
    return tuple(
        Message(
            "system" if message.role == "developer" else message.role,
            _text(message.content),
            message.name,
            tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()),
            message.tool_call_id,
            message.reasoning,
        )
        for message in messages
    )


def _validate_parts(parts: Iterable[ContentPart], path: FieldPath) -> Iterator[Violation]:
    for index, part in enumerate(parts):
        if part.type != "text":
            yield Violation(
                (*path, index, "type"), InvalidValue(f"This model takes text only, got type '{part.type[:40]}'")
            )
        elif part.text is None:
            yield Violation((*path, index, "text"), MissingField())


def _text(content: str | list[ContentPart] | None) -> str:
    return "".join(part.text or "" for part in content) if isinstance(content, list) else content or ""
