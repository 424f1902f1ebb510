"""The JSON bodies of the Responses API, field by field. Absent and null mean the same in a request.

Sources: the schema of Open Responses of 2026-04-24, and the types of OpenAI's client library.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dragoman.core.limits import MAX_MESSAGES
from dragoman.dialects.openai.logprobs import ChatTokenLogprob
from dragoman.dialects.openai.sampling import Probability, SamplingExtensions
from dragoman.dialects.openai.wire import MAX_TOP_LOGPROBS, ErrorDetail, Penalty, SentVerbosity, ServiceTier

MAX_LISTED_TOOLS = 1024
MAX_METADATA = 16

CacheKey = Annotated[str, Meta(max_length=512)]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=MAX_METADATA)
]


class TextFormat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the answer's text is bound. A schema is enforced."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | bool | None = None
    """Required for `json_schema`."""
    strict: bool | None = None
    """Reject a schema that cannot be enforced exactly."""


class TextOptions(msgspec.Struct, frozen=True, kw_only=True):
    format: TextFormat = TextFormat(type="text")
    verbosity: SentVerbosity | UnsetType | None = UNSET
    """Passed on to upstreams of the kind `openai`; without effect for other models. Repeated in the answer."""


class ReasoningOptions(msgspec.Struct, frozen=True, kw_only=True):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    """`xhigh` and `max` count as `high`. Only reasoning models use it."""
    summary: Literal["auto", "concise", "detailed"] | None = None
    """No effect: reasoning is sent whole."""


class ResponseStreamOptions(msgspec.Struct, frozen=True):
    include_obfuscation: bool | None = None
    """No effect: nothing is padded."""


class PromptFields(SamplingExtensions, frozen=True, kw_only=True):
    """What a prompt is made of."""

    model: str
    input: str | Annotated[list[dict[str, Any]], Meta(max_length=MAX_MESSAGES)] | None = None
    """A user's message, or items. Required without `previous_response_id`."""
    instructions: str | None = None
    """A system message before all others."""
    previous_response_id: str | None = None
    """The response that this one continues."""
    tools: Annotated[list[dict[str, Any]], Meta(max_length=MAX_LISTED_TOOLS)] = msgspec.field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    """False: at most one call."""
    text: TextOptions = TextOptions()
    reasoning: ReasoningOptions | None = None
    truncation: Literal["auto", "disabled"] = "disabled"
    """`auto`: drop the oldest items of an input that is too long."""
    chat_template_kwargs: dict[str, Any] = msgspec.field(default_factory=dict)
    """Further variables for the chat template."""


class ResponseRequest(PromptFields, frozen=True, kw_only=True):
    """Unknown fields are ignored."""

    stream: bool = False
    stream_options: ResponseStreamOptions | None = None
    store: bool = True
    """Whether the response can be retrieved and continued later."""
    background: bool = False
    """Answer at once, and generate through the queue."""
    include: list[str] = msgspec.field(default_factory=list)
    """`message.output_text.logprobs` and `reasoning.encrypted_content` have an effect."""
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] = 0
    """Only reported if `include` has `message.output_text.logprobs`."""
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    """Reasoning included. None: the rest of the context."""
    max_tool_calls: Annotated[int, Meta(ge=1)] | None = None
    """No effect: it limits tools of the server, of which there are none."""
    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0
    top_p: Probability = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    metadata: Metadata = msgspec.field(default_factory=dict)
    service_tier: ServiceTier | None = None
    prompt_cache_key: CacheKey | None = None
    safety_identifier: CacheKey | None = None
    user: str | None = None


class OutputTextPart(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    text: str
    annotations: list[Any] = []
    logprobs: list[ChatTokenLogprob] = []


class ReasoningTextPart(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    text: str


ItemStatus = Literal["in_progress", "completed", "incomplete"]


class MessageItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    id: str
    status: ItemStatus
    role: str = "assistant"
    content: list[OutputTextPart]


class ReasoningItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    id: str
    summary: list[Any] = []
    content: list[ReasoningTextPart]
    encrypted_content: str | UnsetType = UNSET
    """The reasoning for clients that keep their history themselves; only this server can read it."""


class FunctionCallItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"):
    id: str
    call_id: str
    name: str
    arguments: str
    status: ItemStatus
    namespace: str | UnsetType = UNSET


class CustomCallItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="custom_tool_call"):
    id: str
    call_id: str
    name: str
    input: str
    status: ItemStatus
    namespace: str | UnsetType = UNSET


Item = MessageItem | ReasoningItem | FunctionCallItem | CustomCallItem


class InputTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int = 0
    """Always 0: writing to the cache costs nothing."""


class OutputTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True, kw_only=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(msgspec.Struct, frozen=True):
    reason: str


class ResponseError(msgspec.Struct, frozen=True):
    code: str
    message: str


ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class ResponseBody(msgspec.Struct, frozen=True, kw_only=True):
    """A response. Every member is present."""

    id: str
    object: str = "response"
    created_at: int
    completed_at: int | None = None
    status: ResponseStatus
    background: bool
    incomplete_details: IncompleteDetails | None = None
    error: ResponseError | None = None
    model: str
    previous_response_id: str | None
    instructions: str | None
    output: list[Item] = []
    tools: list[dict[str, Any]]
    tool_choice: str | dict[str, Any]
    truncation: str
    parallel_tool_calls: bool
    text: TextOptions
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    reasoning: ReasoningOptions | None
    usage: ResponseUsage | None = None
    max_output_tokens: int | None
    max_tool_calls: int | None
    store: bool
    service_tier: str = "default"
    metadata: dict[str, str]
    safety_identifier: str | None
    prompt_cache_key: str | None
    user: str | None = None


class ResponseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream; which members it has depends on its `type`."""

    type: str
    sequence_number: int
    """From 0 on, without gaps."""
    response: ResponseBody | UnsetType = UNSET
    output_index: int | UnsetType = UNSET
    item: Item | UnsetType = UNSET
    item_id: str | UnsetType = UNSET
    content_index: int | UnsetType = UNSET
    part: OutputTextPart | ReasoningTextPart | UnsetType = UNSET
    delta: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    logprobs: list[ChatTokenLogprob] | UnsetType = UNSET
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    input: str | UnsetType = UNSET
    error: ErrorDetail | UnsetType = UNSET
    code: str | UnsetType | None = UNSET
    message: str | UnsetType = UNSET
    param: str | UnsetType | None = UNSET


class InputTokens(msgspec.Struct, frozen=True):
    input_tokens: int
    object: str = "response.input_tokens"


class DeletedResponse(msgspec.Struct, frozen=True):
    id: str
    object: str = "response"
    deleted: bool = True


class RetrieveQuery(msgspec.Struct, frozen=True, kw_only=True):
    stream: bool = False
    """Send the events instead. Only for responses in the background."""
    starting_after: Annotated[int, Meta(ge=-1)] = -1
    """Only the events with higher sequence numbers."""


MAX_LISTED_ITEMS = 100


class ItemsQuery(msgspec.Struct, frozen=True, kw_only=True):
    after: str | None = None
    """The id of the item before the first one that is listed."""
    limit: Annotated[int, Meta(ge=1, le=MAX_LISTED_ITEMS)] = 20
    order: Literal["asc", "desc"] = "desc"


class ItemList(msgspec.Struct, frozen=True, kw_only=True):
    object: str = "list"
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
