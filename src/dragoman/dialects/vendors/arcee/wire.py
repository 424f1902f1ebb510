"""The JSON bodies of this dialect, field by field. The service documents no defaults; these are OpenAI's."""

import sys
from typing import Annotated

import msgspec
from msgspec import Meta

from dragoman.core.limits import MAX_CHOICES, MAX_MESSAGES, MAX_STOP_STRING_LENGTH, MAX_STOP_STRINGS
from dragoman.core.request import ReasoningEffort
from dragoman.dialects.http.fastapi_errors import FastApiDetail
from dragoman.dialects.openai.wire import (
    MAX_TOP_LOGPROBS,
    ChatMessage,
    ResponseFormat,
    StreamOptions,
    ToolChoice,
    Tools,
)

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Probability = Annotated[float, Meta(ge=0, le=1)]
StopString = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_STRING_LENGTH)]
TokenLimit = Annotated[int, Meta(ge=1)]


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of the chat route. Unknown fields are ignored."""

    model: str
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: TokenLimit | None = None
    """None: the rest of the context, which is also the upper limit."""
    max_completion_tokens: TokenLimit | None = None
    """The same; takes precedence if both are sent."""
    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0
    top_p: Probability = 1.0
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOP_STRINGS)] | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] = {}
    """By token id, as a string."""
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    tools: Tools = []
    tool_choice: ToolChoice | None = None
    """None: `auto` with tools, else `none`."""
    parallel_tool_calls: bool = True
    """False: at most one call."""
    response_format: ResponseFormat | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] = 0
    """Needs `logprobs`."""
    reasoning_effort: ReasoningEffort | None = None
    """None: the model's own. Only reasoning models use it."""
    top_k: Annotated[int, Meta(ge=-1)] = -1
    min_p: Probability = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=sys.float_info.max)] = 1.0


class ErrorBody(msgspec.Struct, frozen=True):
    """`detail` is a text, or a list of everything that is wrong with the parameters."""

    detail: str | list[FastApiDetail]


class StreamError(msgspec.Struct, frozen=True):
    message: str
    type: str
    code: int


class StreamErrorBody(msgspec.Struct, frozen=True):
    """OpenAI's client libraries raise only on `error`."""

    error: StreamError
    detail: str


class Pricing(msgspec.Struct, frozen=True, kw_only=True):
    """Prices per token, or per item, as text."""

    prompt: str = "0"
    completion: str = "0"
    image: str = "0"
    request: str = "0"
    input_cache_read: str = "0"


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    hugging_face_id: str
    """`owner/name`; empty for a model without one."""
    name: str
    created: int
    context_length: int
    """0 until the engine reports it."""
    pricing: Pricing = Pricing()
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    quantization: str = ""
    max_output_length: int
    supported_sampling_parameters: tuple[str, ...]
    supported_features: tuple[str, ...]
    description: str = ""


class ModelList(msgspec.Struct, frozen=True):
    """Unlike OpenAI's, without an `object`."""

    data: list[ModelCard]


MAX_USAGE_ROWS = 1000

ISO_DATE = r"^\d{4}-\d\d-\d\d([T ].*)?$"
"""A date, with or without a time."""


class CreditsBody(msgspec.Struct, frozen=True):
    """Only described here: usage.py writes all digits, which a float does not have."""

    credit_balance: float
    """In units of the account's currency."""


class SummaryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Both days are included. Only the day of a time is used, in UTC unless it has an offset."""

    start_date: Annotated[str, Meta(pattern=ISO_DATE)] | None = None
    end_date: Annotated[str, Meta(pattern=ISO_DATE)] | None = None


class StatsQuery(SummaryQuery, frozen=True, kw_only=True):
    model: str | None = None
    model_provider: str | None = None
    source: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_USAGE_ROWS)] = 100
    offset: Annotated[int, Meta(ge=0)] = 0


class StatsRow(msgspec.Struct, frozen=True, kw_only=True):
    """The requests to one model with one key on one day."""

    id: str
    user_id: str
    """The number of the key."""
    org_id: str
    """The number of the account."""
    email: str | None = None
    model: str
    source: str
    input_tokens: int
    output_tokens: int
    total_tokens: int
    total_requests: int
    date: str
    created_at: str


class SummaryBody(msgspec.Struct, frozen=True, kw_only=True):
    total_input_tokens: int
    total_output_tokens: int
    total_tokens: int
    total_requests: int
    unique_users: int
    unique_models: int
    unique_providers: int
    api_usage: int
    """Requests of the API, which are all."""
    app_usage: int = 0
    date_range_days: int
