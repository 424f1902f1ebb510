"""The JSON bodies of this dialect, field by field, with the service's defaults and our ranges."""

from typing import Annotated

import msgspec
from msgspec import Meta

from dragoman.core.limits import MAX_MESSAGES, MAX_STOP_STRING_LENGTH, MAX_STOP_STRINGS
from dragoman.dialects.http.fastapi_errors import FastApiDetail
from dragoman.dialects.openai.wire import ChatMessage, StreamOptions

MAX_PROMPTS = 16

Seed = Annotated[int, Meta(ge=0)]
"""Unsigned 64 bits; the codec checks the upper bound, as msgspec's bounds are signed."""
StopString = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_STRING_LENGTH)]
Prompt = Annotated[str, Meta(min_length=1)]


DEFAULT_TOP_K = 40


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of both routes. Unknown fields are ignored, as the service does."""

    model: str
    """The deployment's model id or one of its aliases."""
    stream: bool = False
    max_tokens: Annotated[int, Meta(ge=1)] = 1024
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.7
    repetition_penalty: Annotated[float, Meta(gt=0)] = 1.0
    end_id: Annotated[int, Meta(ge=-1)] | None = None
    """The token that ends the text instead of the model's own; -1: none."""
    top_p: Annotated[float, Meta(ge=0, le=1)] = 0.7
    top_k: Annotated[int, Meta(ge=-1)] = DEFAULT_TOP_K
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOP_STRINGS)] | None = None
    random_sed: Seed | None = None
    random_seed: Seed | None = None
    seed: Seed | None = None
    stream_options: StreamOptions | None = None


class ChatRequest(CompletionRequest, frozen=True, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]


class TextRequest(CompletionRequest, frozen=True, kw_only=True):
    prompt: Prompt | Annotated[list[Prompt], Meta(min_length=1, max_length=MAX_PROMPTS)]


class ErrorBody(msgspec.Struct, frozen=True):
    """`detail` is a text, or a list of everything that is wrong with the body."""

    detail: str | list[FastApiDetail]


class StreamError(msgspec.Struct, frozen=True):
    message: str
    type: str
    code: int


class StreamErrorBody(msgspec.Struct, frozen=True):
    """OpenAI's client libraries raise only on `error`."""

    error: StreamError
    detail: str
