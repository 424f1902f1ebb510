"""The JSON vocabulary of OpenAI's API that several dialects share: prompts, stop strings, usage."""

from collections.abc import Sequence
from typing import cast

import msgspec
from msgspec import UNSET, UnsetType

from dragoman.core.errors import BadRequest
from dragoman.core.events import Usage
from dragoman.core.limits import MAX_TOKENS
from dragoman.core.request import Prompt, TextPrompt, TokenPrompt

MAX_PROMPTS = 128
"""Prompts one text completion may hold."""

TextCompletionPrompt = str | list[str | int | list[int]]


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """`cached_tokens` of the prompt were shared with another request instead of computed."""

    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    """`reasoning_tokens` of the completion were thought rather than said."""

    reasoning_tokens: int


class CompletionUsage(msgspec.Struct, frozen=True):
    """The usage of a whole request."""

    completion_tokens: int
    prompt_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET
    """Of an answer with thoughts."""


def completion_usage(usage: Usage) -> CompletionUsage:
    """Usage as clients read it."""
    return CompletionUsage(
        usage.completion_tokens,
        usage.prompt_tokens,
        usage.prompt_tokens + usage.completion_tokens,
        PromptTokensDetails(usage.cached_tokens),
        CompletionTokensDetails(usage.reasoning_tokens) if usage.reasoning_tokens else UNSET,
    )


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
