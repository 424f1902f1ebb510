"""The JSON bodies of Anthropic's Messages API, field by field, as its Python library 2.14 describes them.

Fields without effect here are left out, since unknown fields are ignored: cache_control, metadata, service_tier,
context_management and others that grow with every release of a client.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from dragoman.core.limits import MAX_MESSAGES, MAX_STOP_STRING_LENGTH, MAX_STOP_STRINGS

MAX_TOOLS = 512
"""Claude Code sends all tools of all its MCP servers."""

# A bare $ would let a line break follow the name.
ToolName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}$(?!\n)")]


StopSequences = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=MAX_STOP_STRING_LENGTH)]], Meta(max_length=MAX_STOP_STRINGS)
]


class ContentBlock(msgspec.Struct, frozen=True, kw_only=True):
    """A block of a message's content. Which fields it has depends on its type; unknown types are dropped."""

    type: str
    text: str | None = None
    """Of the type text."""
    source: Any = None
    """Of the types image and document."""
    title: str | None = None
    """Of the types document and search_result."""
    context: str | None = None
    """Of the type document."""
    id: str | None = None
    """Of the type tool_use."""
    name: str | None = None
    """Of the type tool_use."""
    input: Any = None
    """Of the type tool_use: an object."""
    tool_use_id: str | None = None
    """Of the type tool_result."""
    content: Any = None
    """Of the types tool_result and search_result: text or blocks."""
    is_error: bool = False
    """Of the type tool_result."""
    thinking: str | None = None
    """Of the type thinking. Its signature is not checked."""


Content = str | list[ContentBlock]


class MessageParam(msgspec.Struct, frozen=True):
    """A message of a conversation. System messages keep their place; `ctx` and `msg` count as `user`."""

    role: Literal["user", "assistant", "system", "ctx", "msg"]
    content: Content


class ToolParam(msgspec.Struct, frozen=True, kw_only=True):
    """A tool of the client's. Tools with another type than `custom` are the vendor's own: they are skipped."""

    type: str = "custom"
    name: ToolName | None = None
    """Required for the type custom."""
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    """A JSON Schema of the input, which is an object."""
    strict: bool = False
    """Reject a schema that cannot be enforced exactly."""
    eager_input_streaming: bool = False
    """Stream the input as it is generated. Otherwise it is sent in one piece, when it is complete."""


class ToolChoiceParam(msgspec.Struct, frozen=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    """Of the type tool: the tool that must be called."""
    disable_parallel_tool_use: bool = False
    """Whether the answer has one call at most."""


class ThinkingParam(msgspec.Struct, frozen=True):
    """Without effect on models that do not reason."""

    type: Literal["enabled", "adaptive", "disabled", "between_tools"]
    budget_tokens: Annotated[int, Meta(ge=1)] | None = None
    """Of the type enabled: chooses the effort, unless `output_config` names one."""
    display: Literal["summarized", "omitted"] | None = None
    """omitted: blocks of thinking have no text."""


class OutputFormat(msgspec.Struct, frozen=True):
    """The text of the answer is JSON that fits the schema, to the letter."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    """xhigh and max count as high."""
    format: OutputFormat | None = None


class CountTokensRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the prompt of a request."""

    model: str
    messages: Annotated[list[MessageParam], Meta(min_length=1, max_length=MAX_MESSAGES)]
    system: Content | None = None
    tools: Annotated[list[ToolParam], Meta(max_length=MAX_TOOLS)] = []
    tool_choice: ToolChoiceParam | None = None
    thinking: ThinkingParam | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    """The older name of `output_config.format`, which precedes it."""


class MessagesRequest(CountTokensRequest, frozen=True, kw_only=True):
    max_tokens: Annotated[int, Meta(ge=1)]
    """The most tokens of the answer, its thinking included. Capped by the context."""
    stop_sequences: StopSequences = []
    stream: bool = False
    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Meta(ge=0, le=1)] = 1.0
    top_k: Annotated[int, Meta(ge=0)] | None = None
    """None or 0: all tokens."""


class OutputTokensDetails(msgspec.Struct, frozen=True):
    """`thinking_tokens` of the output are thinking."""

    thinking_tokens: int


class MessageUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt has `input_tokens` + `cache_creation_input_tokens` + `cache_read_input_tokens` tokens."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    """Always 0: prefixes are shared without being asked for."""
    cache_read_input_tokens: int
    """Prompt tokens that were shared instead of computed."""
    output_tokens: int
    output_tokens_details: OutputTokensDetails | UnsetType = UNSET
    """Only in answers with thinking."""
    service_tier: str = "standard"


class ThinkingBlock(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    thinking: str
    signature: str
    """Opaque, and not checked when it is sent back."""


class TextBlock(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class ToolUseBlock(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    """A call of a tool. `input` is an object."""

    id: str
    name: str
    input: Raw


AnswerBlock = ThinkingBlock | TextBlock | ToolUseBlock

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "model_context_window_exceeded"]


class MessageBody(msgspec.Struct, frozen=True, kw_only=True):
    """An answer. At the beginning of a stream it has no content and no reason to stop."""

    id: str
    type: str = "message"
    role: str = "assistant"
    model: str
    content: list[AnswerBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    """The matched one of `stop_sequences`, which is not part of the text."""
    usage: MessageUsage


class MessageStart(msgspec.Struct, frozen=True, tag_field="type", tag="message_start"):
    message: MessageBody


class ContentBlockStart(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_start"):
    index: int
    content_block: AnswerBlock


class TextDelta(msgspec.Struct, frozen=True, tag_field="type", tag="text_delta"):
    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, tag_field="type", tag="thinking_delta"):
    thinking: str


class SignatureDelta(msgspec.Struct, frozen=True, tag_field="type", tag="signature_delta"):
    signature: str


class InputJsonDelta(msgspec.Struct, frozen=True, tag_field="type", tag="input_json_delta"):
    """The pieces of a call's input concatenate to its JSON."""

    partial_json: str


BlockDelta = TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class ContentBlockDelta(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_delta"):
    index: int
    delta: BlockDelta


class ContentBlockStop(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_stop"):
    index: int


class StopDelta(msgspec.Struct, frozen=True):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(msgspec.Struct, frozen=True, tag_field="type", tag="message_delta"):
    delta: StopDelta
    usage: MessageUsage
    """Of the whole request."""


class MessageStop(msgspec.Struct, frozen=True, tag_field="type", tag="message_stop"):
    pass


class Ping(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """Sent behind the first event, and whenever a stream was silent for a while."""


StreamEvent = (
    MessageStart | ContentBlockStart | ContentBlockDelta | ContentBlockStop | MessageDelta | MessageStop | Ping
)


class StreamEventBody(msgspec.Struct, frozen=True, kw_only=True):
    """Any of these events, for the documentation. Which members it has depends on its type."""

    type: Literal[
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    message: MessageBody | UnsetType = UNSET
    index: int | UnsetType = UNSET
    content_block: AnswerBlock | UnsetType = UNSET
    delta: dict[str, Any] | UnsetType = UNSET
    usage: MessageUsage | UnsetType = UNSET


class InputTokenCount(msgspec.Struct, frozen=True):
    """The prompt tokens that an answer to the same request reports altogether."""

    input_tokens: int


class ModelsQuery(msgspec.Struct, frozen=True):
    """A page of the list, between the models with these ids."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 20
    after_id: str | None = None
    before_id: str | None = None


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    type: str = "model"
    id: str
    display_name: str
    created_at: str
    """RFC 3339: since when the model is served."""
    max_input_tokens: int | None
    """The model's context; None until its engine has reported it."""
    max_tokens: int | None
    lifecycle: str = "active"
    capabilities: None = None


class ModelPage(msgspec.Struct, frozen=True):
    data: list[ModelInfo]
    has_more: bool
    first_id: str | None
    last_id: str | None


class ErrorDetail(msgspec.Struct, frozen=True):
    type: str
    message: str


class ErrorBody(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """The id of the request is in the header `request-id`."""

    error: ErrorDetail
