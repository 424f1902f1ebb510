"""The JSON bodies of this dialect, field by field. Absent and null mean the same in a request."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dragoman.core.limits import MAX_CHOICES
from dragoman.dialects.openai_shapes import ChatMessage, StreamOptions, TextCompletionPrompt, UsageBody
from dragoman.dialects.validation import FastApiDetail

DEFAULT_PRIORITY = 128

Tokens = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]


class ResponseFormat(msgspec.Struct, frozen=True):
    type: str


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What both routes take, with OpenAI's defaults. Unknown fields are ignored, as the service does."""

    model: str | None = None
    """Required, unless it stands in the path."""
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    min_tokens: Annotated[int, Meta(ge=0)] = 0
    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0
    top_p: Share = 1.0
    top_k: Annotated[int, Meta(ge=-1)] = -1
    min_p: Share = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0)] = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] = {}
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] = 1
    best_of: int | None = None
    seed: int | None = None
    """-1: none."""
    stop: str | list[str] = []
    stop_token_ids: list[int] = []
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    stream: bool = False
    stream_options: StreamOptions | None = None
    priority: Annotated[int, Meta(ge=0)] = DEFAULT_PRIORITY
    user: str | None = None


class ChatRequest(CompletionRequest, frozen=True, kw_only=True):
    messages: list[ChatMessage]
    logprobs: bool = False
    top_logprobs: int | None = None
    tools: list[Any] = []
    tool_choice: Any = None
    response_format: ResponseFormat | None = None


class TextRequest(CompletionRequest, frozen=True, kw_only=True):
    prompt: TextCompletionPrompt
    max_tokens: Tokens = 16
    """As OpenAI and vLLM have it; chat takes the rest of the context."""
    logprobs: int | None = None
    echo: bool = False
    suffix: str | None = None


class TokenCountRequest(msgspec.Struct, frozen=True):
    model: str
    prompt: str | None = None
    messages: list[ChatMessage] | None = None


class TokenCount(msgspec.Struct, frozen=True):
    total_tokens: int
    request_model: str
    model_used: str
    tokenizer_type: str = "huggingface_tokenizer"


class AssistantMessage(msgspec.Struct, frozen=True):
    content: str
    role: str = "assistant"
    tool_calls: None = None
    function_call: None = None


class ChatChoice(msgspec.Struct, frozen=True):
    finish_reason: str
    index: int
    message: AssistantMessage


class TextChoice(msgspec.Struct, frozen=True):
    finish_reason: str
    index: int
    text: str
    logprobs: None = None


class ChatDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    content: str | None = None
    role: str | None = None


class ChatChunkChoice(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    finish_reason: str | None = None
    index: int
    delta: ChatDelta


class TextChunkChoice(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    finish_reason: str | None = None
    index: int
    text: str


class ChatCompletion(msgspec.Struct, frozen=True):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody
    system_fingerprint: None = None


class TextCompletion(msgspec.Struct, frozen=True):
    id: str
    object: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageBody


class ChatChunk(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str
    created: int
    model: str
    object: str
    choices: list[ChatChunkChoice]
    usage: UsageBody | None = None


class TextChunk(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str
    created: int
    model: str
    object: str
    choices: list[TextChunkChoice]
    usage: UsageBody | None = None


class ErrorDetail(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str
    code: str


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorDetail


class TokenCounterErrorBody(msgspec.Struct, frozen=True):
    """The token counter tells of a wrong body as FastAPI does, and of the rest as the other routes do."""

    error: ErrorDetail | UnsetType = UNSET
    detail: str | list[FastApiDetail] | UnsetType = UNSET


class ModelCard(msgspec.Struct, frozen=True):
    """`created` and `owned_by` are the constants LiteLLM sends."""

    id: str
    object: str = "model"
    created: int = 1677610602
    owned_by: str = "openai"


class ModelList(msgspec.Struct, frozen=True):
    data: list[ModelCard]
    object: str = "list"
