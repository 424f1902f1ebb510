"""The JSON bodies of OpenAI's API that several dialects share, field by field."""

from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dragoman.core.limits import MAX_CHOICES, MAX_MESSAGES
from dragoman.core.request import ReasoningEffort
from dragoman.dialects.openai.logprobs import ChatLogprobs, TextLogprobs
from dragoman.dialects.openai.sampling import Probability, SamplingExtensions

MAX_TOOLS = 128

MAX_TOP_LOGPROBS = 20

MAX_TEMPLATE_BYTES = 64 * 1024
"""Of a template, and of the variables for it as JSON."""

# A bare $ would let a line break follow the name.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]
"""Of a function, or of a schema."""

Template = Annotated[str, Meta(max_length=MAX_TEMPLATE_BYTES)]
"""Jinja source."""

TemplateArguments = dict[str, Any]
"""Further variables for the template."""

TextCompletionPrompt = str | list[str | int | list[int]]


class ImageAddress(msgspec.Struct, frozen=True):
    url: str
    """Of the scheme `data`."""
    detail: Literal["low", "high", "auto", "original"] | None = None
    """`original` counts as `high`."""


class ContentPart(msgspec.Struct, frozen=True):
    """One part of a message's content.

    Of the type `text`, `image_url` for models that take images, or `refusal` in an assistant's message.
    """

    type: str
    text: str | None = None
    image_url: ImageAddress | None = None
    refusal: str | None = None


class AssistantFunctionCall(msgspec.Struct, frozen=True):
    name: str
    arguments: str = "{}"
    """JSON text."""


class AssistantToolCall(msgspec.Struct, frozen=True):
    """A tool call of an earlier answer."""

    id: str
    function: AssistantFunctionCall
    type: Literal["function"] = "function"


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    """Required, except in an assistant's message with tool calls or a refusal."""
    refusal: str | None = None
    """In an assistant's message: its text, if there is no content."""
    name: str | None = None
    tool_calls: list[AssistantToolCall] | None = None
    tool_call_id: str | None = None
    """In a tool's message: the id of the call it answers."""
    reasoning: str | None = None
    """The reasoning of an earlier answer. Only templates of reasoning models use it."""
    reasoning_content: str | None = None
    """The same, under the name that other servers gave it."""


class FunctionDefinition(msgspec.Struct, frozen=True):
    """`parameters` is a JSON Schema; absent: the function takes no arguments."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False
    """Reject a schema that cannot be enforced exactly."""


class ToolDefinition(msgspec.Struct, frozen=True):
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(msgspec.Struct, frozen=True):
    name: str


class NamedTool(msgspec.Struct, frozen=True):
    """Requires a call of one function."""

    type: Literal["function"]
    function: NamedFunction


Tools = Annotated[list[ToolDefinition], Meta(max_length=MAX_TOOLS)]
ToolChoice = Literal["none", "auto", "required"] | NamedTool


class AllowedTools(msgspec.Struct, frozen=True):
    """Tools of the request that may be called; the others are only seen by the model."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Meta(min_length=1, max_length=MAX_TOOLS)]


class JsonSchema(msgspec.Struct, frozen=True):
    """Only the schema constrains the answer; `name` and `description` are informative."""

    name: Name
    description: str | None = None
    schema: dict[str, Any] | bool = True
    """Absent: any JSON value."""
    strict: bool = False
    """Reject a schema that cannot be enforced exactly."""


class ResponseFormat(msgspec.Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    """Required for the type of this name, unless `schema` is there."""
    schema: dict[str, Any] | bool | None = None
    """The schema alone, as llama.cpp's server takes it. Always strict."""


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """`cached_tokens` of the prompt were taken from the prefix cache instead of computed."""

    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    """`reasoning_tokens` of the completion are reasoning rather than content."""

    reasoning_tokens: int


class CompletionUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The usage of a whole request."""

    completion_tokens: int
    prompt_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | UnsetType = UNSET
    """Not in the usage so far."""
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET
    """Only in answers with reasoning."""


class FunctionCall(msgspec.Struct, frozen=True):
    name: str
    arguments: str
    """JSON text."""


class ToolCallBody(msgspec.Struct, frozen=True):
    """A tool call in an answer."""

    id: str
    type: str
    function: FunctionCall


class FunctionCallDeltaBody(msgspec.Struct, frozen=True, kw_only=True):
    """The name is sent once, as a whole; the arguments of all parts are concatenated."""

    name: str | UnsetType = UNSET
    arguments: str


class ToolCallDeltaBody(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a tool call in a stream; `index` is the number of the call within its choice."""

    index: int
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: FunctionCallDeltaBody


class AssistantMessage(msgspec.Struct, frozen=True, kw_only=True):
    role: str = "assistant"
    reasoning: str | UnsetType = UNSET
    content: str | None
    """None where the choice calls tools instead."""
    refusal: None = None
    annotations: list[dict[str, Any]] = []
    """Always empty."""
    tool_calls: list[ToolCallBody] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    index: int
    message: AssistantMessage
    finish_reason: str
    logprobs: ChatLogprobs | None = None


class TextChoice(msgspec.Struct, frozen=True):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str


class ChatDelta(msgspec.Struct, frozen=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[ToolCallDeltaBody] | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: ChatDelta
    finish_reason: str | None = None
    logprobs: ChatLogprobs | UnsetType | None = UNSET


class TextChunkChoice(msgspec.Struct, frozen=True):
    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: str | None = None


Choice = TypeVar("Choice")


class Completion(msgspec.Struct, Generic[Choice], frozen=True, kw_only=True):
    """The members that chat and text completions share."""

    id: str
    object: str
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage


class ChatCompletion(Completion[ChatChoice], frozen=True, kw_only=True):
    system_fingerprint: str | UnsetType = UNSET


class TextCompletion(Completion[TextChoice], frozen=True, kw_only=True):
    pass


class CompletionChunk(msgspec.Struct, Generic[Choice], frozen=True, kw_only=True):
    """One event of a stream. `usage` is in the last one, if it was asked for."""

    id: str
    object: str
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage | UnsetType = UNSET


class ChatChunk(CompletionChunk[ChatChunkChoice], frozen=True, kw_only=True):
    system_fingerprint: str | UnsetType = UNSET


class TextChunk(CompletionChunk[TextChunkChoice], frozen=True, kw_only=True):
    pass


TokenLimit = Annotated[int, Meta(ge=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
ServiceTier = Literal["auto", "default", "flex", "priority", "scale", "fast", "ultrafast"]
"""`priority`, `fast` and `ultrafast` go before all others and `flex` after them."""


class CompletionRequest(SamplingExtensions, frozen=True, kw_only=True):
    """The fields of chat and text completions. Unknown fields are ignored."""

    model: str
    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0
    top_p: Probability = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    """Only with `stream`."""
    service_tier: ServiceTier | None = None
    prompt_cache_key: str | None = None
    """Requests with an equal key go to the same replica where nothing else decides."""
    user: str | None = None
    """Without `prompt_cache_key`, its stand-in."""


class AllowedToolChoice(msgspec.Struct, frozen=True):
    """Allows calls of some tools, or requires a call of one function."""

    type: Literal["function", "allowed_tools"]
    function: NamedFunction | None = None
    """Required for the type `function`."""
    allowed_tools: AllowedTools | None = None
    """Required for the type of this name."""


SentVerbosity = Literal["low", "medium", "high"]


class ChatRequest(CompletionRequest, frozen=True, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: TokenLimit | None = None
    """None: the rest of the context, which is also the upper limit."""
    max_tokens: TokenLimit | None = None
    """The older name; `max_completion_tokens` precedes it."""
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] = 0
    """Needs `logprobs`."""
    tools: Tools = msgspec.field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] | AllowedToolChoice | None = None
    """None: `auto` with tools, else `none`."""
    parallel_tool_calls: bool = True
    """False: at most one call."""
    response_format: ResponseFormat | None = None
    reasoning_effort: ReasoningEffort | Literal["xhigh", "max"] | None = None
    """None: the model's own. Only reasoning models use it. `xhigh` and `max` count as `high`."""
    verbosity: SentVerbosity | None = None
    """Passed on to upstreams of the kind `openai`; other models take `medium` only."""
    chat_template_kwargs: TemplateArguments = msgspec.field(default_factory=dict)
    """Further variables for the chat template."""


class TextRequest(CompletionRequest, frozen=True, kw_only=True):
    prompt: TextCompletionPrompt
    max_tokens: Annotated[int, Meta(ge=0)] = 16
    """0 needs `echo`."""
    best_of: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    """At least n. Not in a stream."""
    logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    """The number of likeliest tokens beside each token."""
    echo: bool = False


class ModelCard(msgspec.Struct, frozen=True):
    id: str
    object: str
    created: int
    owned_by: str


class ModelList(msgspec.Struct, frozen=True):
    object: str
    data: list[ModelCard]


class ErrorDetail(msgspec.Struct, frozen=True):
    """`param` is the field at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorDetail
