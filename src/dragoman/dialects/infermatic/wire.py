"""The JSON bodies of this dialect, field by field. Absent and null mean the same in a request."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from dragoman.dialects.openai_shapes import ChatMessage, Number, StreamOptions, TextCompletionPrompt, UsageBody
from dragoman.dialects.validation import FastApiDetail


class ResponseFormat(msgspec.Struct, frozen=True):
    type: str


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What both routes take. Unknown fields are ignored, as the service does."""

    model: str | None = None
    max_tokens: Number | None = None
    max_completion_tokens: Number | None = None
    min_tokens: Number | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Number | None = None
    min_p: Number | None = None
    repetition_penalty: Number | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    logit_bias: dict[str, Number] | None = None
    n: Number | None = None
    best_of: Number | None = None
    seed: Number | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[Number] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: Number | None = None
    user: str | None = None


class ChatRequest(CompletionRequest, frozen=True, kw_only=True):
    messages: list[ChatMessage] | None = None
    logprobs: bool | None = None
    top_logprobs: Number | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    response_format: ResponseFormat | None = None


class TextRequest(CompletionRequest, frozen=True, kw_only=True):
    prompt: TextCompletionPrompt | None = None
    logprobs: Number | None = None
    echo: bool | None = None
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
