"""The events of an answer: one ordered stream per request.

First one `Started`. For each choice: the `PromptTokens` if requested, any number of deltas, then one `Finished`. After
the last choice: one `Usage`. A request that fails raises an error of core.errors instead and has no `Usage`.

Each token of a choice is counted by exactly one delta, in the order of generation. An engine that knows the ids of its
tokens sends them. The text of a token depends on the tokens before it and on nothing else. A request that resumes after
tokens of an earlier attempt (`GenerationRequest.resume_token_ids`) therefore sends equal deltas for them, save for new
ids of tool calls.

Events are in no reference cycle, so the garbage collector does not track them (`gc=False`).
"""

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
"""The last one is another server's, which has broken the answer off for its content."""

CUT_OFF: tuple[FinishReason, ...] = ("length", "content_filter")
"""Reasons of answers that may end in the middle of anything."""

UsageSource = Literal["engine", "upstream", "counted", "partial", "estimated"]
"""Who counted: the engine itself; another server, at the end of its answer; another server, up to where its answer
broke off; nobody, so that chunks and characters stand for tokens."""


class TopLogprob(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A token and its log-probability."""

    token_id: int
    token: bytes
    """The text it stands for, possibly a part of a character."""
    logprob: float
    """Natural logarithm; minus infinity is -9999.0."""


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One token of the text, in the model's own distribution: before masks, bias, penalties and temperature."""

    token_id: int
    token: bytes
    """The text it stands for, possibly a part of a character."""
    logprob: float | None
    """None: the first token of a prompt, which has no predecessor."""
    top: list[TopLogprob]
    """The likeliest tokens at this position, highest first; as many as requested."""
    rank: int | None = None
    """The number of tokens that are at least as likely at this position. Only with `prompt_logprobs`."""


class Started(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="started"):
    """The engine has begun to answer. Only a request of one prompt has it, together with its first token."""

    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens that were shared with another request instead of computed."""


class PromptTokens(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="prompt"):
    """The tokens of the prompt that the choice `index` answers, before its first delta."""

    index: int
    prompt_token_ids: list[int]
    logprobs: list[TokenLogprobs] = []
    """One entry for each token, if log-probabilities of the prompt were requested."""


class Delta(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="delta"):
    """New text of one choice. `text` holds whole characters and may be empty; `token_ids` are the tokens sampled.

    `logprobs` are those of the tokens of this text, and of earlier tokens whose logprobs were not sent yet.
    """

    index: int
    text: str
    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] = []
    unidentified_tokens: int = 0
    """Tokens of an engine that reports how many there are, but not which."""

    @property
    def tokens(self) -> int:
        """The number of tokens sampled."""
        return len(self.token_ids) + self.unidentified_tokens


class ReasoningDelta(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="reasoning"):
    """New text of a choice's reasoning."""

    index: int
    text: str
    token_ids: list[int] = []
    unidentified_tokens: int = 0

    @property
    def tokens(self) -> int:
        """The number of tokens sampled."""
        return len(self.token_ids) + self.unidentified_tokens


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, tag="tool_call"):
    """A piece of one of a choice's tool calls.

    The first piece of a call has its id and its whole name; the `arguments` of all its pieces concatenate to JSON text.
    """

    index: int
    call_index: int
    """The number of the call within its choice, from 0 on."""
    arguments: str
    token_ids: list[int] = []
    id: str | None = None
    name: str | None = None
    unidentified_tokens: int = 0

    @property
    def tokens(self) -> int:
        """The number of tokens sampled."""
        return len(self.token_ids) + self.unidentified_tokens


class Unenforced(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="unenforced"):
    """Keywords of schemas without `strict` that are not enforced. Comes before all else, and only if there are any."""

    index: int
    """Of the request's first choice."""
    keywords: list[str]
    """Each with its pointer: "'contains' at #/properties/a"."""


class Finished(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="finished"):
    """The choice `index` is complete."""

    index: int
    reason: FinishReason
    stop_reason: str | int | None = None
    """The stop string or the stop token id that ended it; None: anything else, an END token included."""


class Usage(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="usage"):
    """Tokens of the whole request. `prompt_tokens` counts the prompt once, whatever n is.

    `cached_tokens` of them were shared with another request instead of computed; `reasoning_tokens` of the completion
    tokens are reasoning.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0
    source: UsageSource = "engine"


class Embedding(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="embedding"):
    """The vector of one input, or a reranker's score of it, which is a vector of one value.

    A request for embeddings has one for each input, in their order, then its `Usage`.
    """

    index: int
    values: bytes
    """32-bit floats, little-endian."""


AnyDelta = Delta | ReasoningDelta | ToolCallDelta
ChoiceEvent = Delta | ReasoningDelta | ToolCallDelta | PromptTokens | Unenforced | Finished
"""An event of one choice, which has its `index`."""

Event = ChoiceEvent | Embedding | Started | Usage
