"""The JSON bodies of OpenAI's API that several dialects share, field by field."""

from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

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


class ContentPart(msgspec.Struct, frozen=True):
    """One part of a message's content. Only the type `text` is supported."""

    type: str
    text: str | None = None


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
    """Required, except in an assistant's message with tool calls."""
    name: str | None = None
    tool_calls: list[AssistantToolCall] | None = None
    tool_call_id: str | None = None
    """In a tool's message: the id of the call it answers."""
    reasoning: str | None = None
    """The reasoning of an earlier answer. Only templates of reasoning models use it."""


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


class ChatTopLogprob(msgspec.Struct, frozen=True):
    """`token` shows a part of a character as U+FFFD; `bytes` are its UTF-8 bytes."""

    token: str
    logprob: float
    """Natural logarithm; minus infinity is -9999."""
    bytes: list[int]


class ChatTokenLogprob(msgspec.Struct, frozen=True):
    """A token of the answer, and the likeliest ones at its position."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """The tokens of an answer, or of one chunk of it."""

    content: list[ChatTokenLogprob]
    refusal: None = None


class TextLogprobs(msgspec.Struct, frozen=True):
    """Four lists with one entry per token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """None for the first token of a prompt, which has no context."""
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    """The offset of the token in the choice's text, in characters."""


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
    logprobs: None
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
    logprobs: None = None
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
