"""The JSON vocabulary of OpenAI's API that several dialects share: messages, prompts, usage."""

from collections.abc import Sequence
from typing import Any, cast, get_args

import msgspec

from dragoman.core.errors import BadRequest
from dragoman.core.events import Usage
from dragoman.core.limits import MAX_TOKENS
from dragoman.core.request import ChatPrompt, Message, Prompt, Role, TextPrompt, TokenPrompt

MAX_PROMPTS = 128
"""Prompts one text completion may hold."""

TextCompletionPrompt = str | list[str | int | list[int]]


class ContentPart(msgspec.Struct, frozen=True):
    """One part of a message's content. Only parts of type `text` are understood."""

    type: str
    text: str | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """One message as clients send it."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[Any] | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """`cached_tokens` of the prompt were shared with another request instead of computed."""

    cached_tokens: int


class UsageBody(msgspec.Struct, frozen=True):
    """The usage of a whole request."""

    completion_tokens: int
    prompt_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


def usage_body(usage: Usage) -> UsageBody:
    """Usage as clients read it."""
    return UsageBody(
        usage.completion_tokens,
        usage.prompt_tokens,
        usage.prompt_tokens + usage.completion_tokens,
        PromptTokensDetails(usage.cached_tokens),
    )


def chat_prompt(messages: Sequence[ChatMessage]) -> ChatPrompt:
    """The conversation in core's terms. Raises BadRequest naming the message."""
    if not messages:
        raise BadRequest("messages must hold at least one message", "messages")
    return ChatPrompt(tuple(_message(f"messages[{index}]", message) for index, message in enumerate(messages)))


def text_prompts(prompt: TextCompletionPrompt) -> list[Prompt]:
    """The one or several prompts of a text completion. Raises BadRequest."""
    if isinstance(prompt, str):
        return [TextPrompt(prompt)]
    if not prompt:
        raise BadRequest("prompt must hold at least one prompt", "prompt")
    if all(isinstance(item, int) for item in prompt):
        return [_token_prompt(cast("list[int]", prompt))]
    if len(prompt) > MAX_PROMPTS:
        raise BadRequest(f"prompt takes at most {MAX_PROMPTS} prompts, got {len(prompt)}", "prompt")
    if all(isinstance(item, str) for item in prompt):
        return [TextPrompt(text) for text in cast("list[str]", prompt)]
    if all(isinstance(item, list) for item in prompt):
        return [_token_prompt(token_ids) for token_ids in cast("list[list[int]]", prompt)]
    raise BadRequest(
        "prompt must be a string, a list of strings, a list of token ids or a list of lists of them", "prompt"
    )


def stop_strings(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """One stop string or several as core has them."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def is_token_id(key: str) -> bool:
    """Whether a key of logit_bias can be a token id."""
    return key.isascii() and key.isdecimal() and len(key) < 10


def _token_prompt(token_ids: Sequence[int]) -> TokenPrompt:
    for token in token_ids:
        if not 0 <= token <= MAX_TOKENS:
            raise BadRequest(f"prompt must hold token ids, got {str(token)[:40]}", "prompt")
    return TokenPrompt(tuple(token_ids))


def _message(where: str, message: ChatMessage) -> Message:
    role = "system" if message.role == "developer" else message.role
    if role == "tool" or message.tool_calls:
        raise BadRequest(f"{where}: tool calls and tool messages are not supported", "messages")
    if role not in get_args(Role):
        raise BadRequest(
            f"{where}.role must be one of {', '.join(get_args(Role))} or developer, got '{role}'", "messages"
        )
    if message.content is None:
        raise BadRequest(f"{where}.content is missing", "messages")
    return Message(cast("Role", role), _text(where, message.content), message.name)


def _text(where: str, content: str | list[ContentPart]) -> str:
    if isinstance(content, str):
        return content
    for index, part in enumerate(content):
        if part.type != "text" or part.text is None:
            raise BadRequest(
                f"{where}.content[{index}] must be a text part; this model takes text only, got type '{part.type}'",
                "messages",
            )
    return "".join(part.text or "" for part in content)
