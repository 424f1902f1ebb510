"""What an engine says while it answers: one ordered stream of events per request.

For each choice: any number of deltas, then one `Finished`. After the last choice: one `Usage`. A request that
fails raises an error of core.errors instead and has no `Usage`.

Each token of a choice stands in the `token_ids` of exactly one delta, in the order of generation. What a token gives
depends on the tokens before it and on nothing else, so a request that goes on after the tokens that were told
(`GenerationRequest.begun`) tells the same deltas for them once more; those of the ids of tool calls excepted.
"""

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "tool_calls"]


class TopLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token and its log-probability."""

    token_id: int
    token: bytes
    """The text it stands for, possibly a part of a character."""
    logprob: float
    """Natural logarithm; minus infinity is -9999.0."""


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """One token of the text, in the model's own distribution: before masks, bias, penalties and temperature."""

    token_id: int
    token: bytes
    """The text it stands for, possibly a part of a character."""
    logprob: float | None
    """None: the first token of a prompt, which nothing comes before."""
    top: list[TopLogprob]
    """The likeliest tokens at this place, highest first; as many as were asked for."""


class Delta(msgspec.Struct, frozen=True, array_like=True, tag="delta"):
    """New text of one choice. `text` holds whole characters and may be empty; `token_ids` are the tokens sampled.

    `logprobs` are those of the tokens of this text, and of those shown in it earlier that none were told of yet.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] = []


class ReasoningDelta(msgspec.Struct, frozen=True, array_like=True, tag="reasoning"):
    """New text of what a choice thinks before it answers."""

    index: int
    text: str
    token_ids: list[int]


class ToolCallDelta(msgspec.Struct, frozen=True, array_like=True, tag="tool_call"):
    """A piece of one of a choice's tool calls.

    The first piece of a call has its id and its whole name; the `arguments` of all its pieces concatenate to JSON text.
    """

    index: int
    call_index: int
    """The number of the call within its choice, from 0 on."""
    arguments: str
    token_ids: list[int]
    id: str | None = None
    name: str | None = None


class Finished(msgspec.Struct, frozen=True, array_like=True, tag="finished"):
    """The choice `index` is complete."""

    index: int
    reason: FinishReason


class Usage(msgspec.Struct, frozen=True, array_like=True, tag="usage"):
    """Tokens of the whole request. `prompt_tokens` counts the prompt once, whatever n is.

    `cached_tokens` of them were not computed for this request but shared with another one; `reasoning_tokens` of the
    completion tokens were thought rather than said.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0


AnyDelta = Delta | ReasoningDelta | ToolCallDelta
Event = Delta | ReasoningDelta | ToolCallDelta | Finished | Usage
