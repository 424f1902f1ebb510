"""The JSON bodies of this dialect, field by field. Absent and null mean the same in a request."""

from collections.abc import Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dragoman.core.jobs import DEFAULT_PRIORITY
from dragoman.core.limits import MAX_CHOICES, MAX_MESSAGES
from dragoman.core.request import ReasoningEffort
from dragoman.dialects.http.fastapi_errors import FastApiDetail
from dragoman.dialects.openai.logprobs import ChatLogprobs, TextLogprobs
from dragoman.dialects.openai.wire import (
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    AllowedTools,
    AssistantFunctionCall,
    ChatMessage,
    Completion,
    CompletionUsage,
    FunctionCall,
    FunctionCallDeltaBody,
    FunctionDefinition,
    NamedFunction,
    ResponseFormat,
    SentVerbosity,
    StreamOptions,
    Template,
    TemplateArguments,
    TextCompletionPrompt,
    ToolCallBody,
    ToolCallDeltaBody,
    Tools,
)

TokenLimit = Annotated[int, Meta(ge=1)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
MAX_CACHE_SALT_LENGTH = 1024
ChoiceTexts = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1)]
"""The texts that the answer may be."""


SentEffort = ReasoningEffort | Literal["xhigh", "max"]


class ReasoningChatMessage(ChatMessage, frozen=True, kw_only=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]  # type: ignore[assignment]
    """`function`, of OpenAI's older API: the result of the `function_call` before it."""
    function_call: AssistantFunctionCall | None = None
    """In an assistant's message: the older form of `tool_calls`."""


class UsageStreamOptions(StreamOptions, frozen=True):
    continuous_usage_stats: bool | None = None
    """With `include_usage`: every chunk has the usage of its choice so far."""


class ControlledTool(msgspec.Struct, frozen=True):
    """Requires a call of one function, or allows calls of some."""

    type: Literal["function", "allowed_tools"]
    function: NamedFunction | None = None
    """Required for the type `function`."""
    allowed_tools: AllowedTools | None = None
    """Required for the type of this name."""


ToolChoice = Literal["none", "auto", "required"] | ControlledTool
FunctionChoice = Literal["none", "auto"] | NamedFunction


class StructuredOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """vLLM's output format, with exactly one member."""

    json: dict[str, Any] | str | None = None
    """A JSON Schema, or one as text."""
    regex: str | None = None
    choice: ChoiceTexts | None = None
    grammar: str | None = None
    """In Lark's syntax or llama.cpp's GBNF."""


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of both routes, with OpenAI's defaults. Unknown fields are ignored, as the service does."""

    model: str | None = None
    """Required unless it is in the path."""
    max_tokens: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    min_tokens: Annotated[int, Meta(ge=0)] = 0
    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0
    top_p: Probability = 1.0
    top_k: Annotated[int, Meta(ge=-1)] = -1
    min_p: Probability = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0)] = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] = {}
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] = 1
    best_of: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    """At least n. Not in a stream."""
    seed: int | None = None
    """-1: none."""
    stop: str | list[str] = []
    stop_token_ids: list[int] = []
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    stream: bool = False
    stream_options: UsageStreamOptions | None = None
    """Only with `stream`."""
    priority: Annotated[int, Meta(ge=0)] = DEFAULT_PRIORITY
    prompt_cache_key: str | None = None
    """Requests with an equal key go to the same replica where nothing else decides."""
    user: str | None = None
    """Without `prompt_cache_key`, its stand-in."""
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] = []
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1)] | None = None
    """-1: as many as the context holds beside the answer."""
    truncation_side: Literal["left", "right"] | None = None
    """Where tokens are dropped; None: left."""
    prompt_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    """The number of likeliest tokens beside each token of the prompt. Not in a stream."""
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    """Log-probabilities name their tokens by id."""
    cache_salt: Annotated[str, Meta(min_length=1, max_length=MAX_CACHE_SALT_LENGTH)] | None = None
    """Prefixes are shared with requests of the same salt only."""
    drop_params: bool = False
    """Ignore the fields that this server refuses, instead of answering 400."""
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    """Like the next three, an older spelling of structured_outputs."""
    guided_regex: str | None = None
    guided_choice: ChoiceTexts | None = None
    guided_grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    """Like `grammar`, what clients of llama.cpp's server send."""
    grammar: str | None = None


class ChatRequest(CompletionRequest, frozen=True, kw_only=True):
    messages: Annotated[list[ReasoningChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] = 0
    """Needs `logprobs`."""
    tools: Tools = []
    tool_choice: ToolChoice | None = None
    """None: `auto` with tools, else `none`."""
    parallel_tool_calls: bool = True
    """False: at most one call."""
    functions: Annotated[list[FunctionDefinition], Meta(max_length=MAX_TOOLS)] = []
    """The older form of `tools`. The answer has a `function_call`."""
    function_call: FunctionChoice | None = None
    """None: `auto` with functions, else `none`."""
    echo: bool = False
    """The answer begins with the last message if that is the assistant's."""
    include_reasoning: bool = True
    """False: the answer does not show its reasoning."""
    response_format: ResponseFormat | None = None
    reasoning_effort: SentEffort | None = None
    """None: the model's own. Only reasoning models use it. `xhigh` and `max` count as `high`."""
    verbosity: SentVerbosity | None = None
    """Passed on to upstreams of the kind `openai`; other models take `medium` only."""
    chat_template: Template | None = None
    """None: the model's own."""
    chat_template_kwargs: TemplateArguments = {}
    documents: list[dict[str, Any]] = []
    """For templates of models that answer from documents."""
    add_generation_prompt: bool | None = None
    """Whether the prompt begins the assistant's turn; None: unless `continue_final_message`."""
    continue_final_message: bool = False
    """The answer continues the last message."""
    add_special_tokens: bool = False
    """No effect: the prompt has its template's special tokens, and BOS once if the model expects it."""


class TextRequest(CompletionRequest, frozen=True, kw_only=True):
    prompt: TextCompletionPrompt
    max_tokens: Annotated[int, Meta(ge=0)] = 16
    """As in OpenAI's API and vLLM; chat defaults to the rest of the context. 0 needs `echo`."""
    max_completion_tokens: Annotated[int, Meta(ge=0)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    """The number of likeliest tokens beside each token."""
    echo: bool = False
    suffix: str | None = None
    add_special_tokens: bool = True
    """Whether tokens that the model expects around a text are added, such as BOS. Token ids stay as they are."""
    response_format: ResponseFormat | None = None


class TokenCountRequest(msgspec.Struct, frozen=True):
    model: str
    prompt: str | None = None
    messages: Annotated[list[ReasoningChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)] | None = None
    tools: Tools = []
    """They are part of the prompt that the messages are rendered to."""


class TokenCount(msgspec.Struct, frozen=True):
    total_tokens: int
    request_model: str
    model_used: str
    tokenizer_type: str = "huggingface_tokenizer"


class AssistantMessage(msgspec.Struct, frozen=True, kw_only=True):
    content: str | None
    """None where the choice calls tools instead."""
    role: str = "assistant"
    refusal: None = None
    annotations: list[dict[str, Any]] = []
    """Always empty."""
    tool_calls: list[ToolCallBody] | UnsetType = UNSET
    function_call: FunctionCall | UnsetType = UNSET
    """Instead of `tool_calls` in the answer to a request with `functions`."""
    reasoning_content: str | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    finish_reason: str
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    stop_reason: str | int | None = None
    """The stop string or stop token id that ended it; None: anything else."""
    token_ids: list[int] | UnsetType = UNSET


class PromptTokenLogprob(msgspec.Struct, frozen=True):
    """`rank` is the number of tokens that are at least as likely."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptTokenLogprob] | None]
"""For each token of a prompt but the first: its id and those of the likeliest tokens → their log-probabilities."""


class TextChoice(msgspec.Struct, frozen=True, kw_only=True):
    finish_reason: str
    index: int
    text: str
    logprobs: TextLogprobs | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class ChatDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    content: str | None = None
    role: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDeltaBody] | None = None
    function_call: FunctionCallDeltaBody | None = None


class ChatChunkChoice(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    finish_reason: str | None = None
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None


class TextChunkChoice(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    finish_reason: str | None = None
    index: int
    text: str
    logprobs: TextLogprobs | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class ChatCompletion(Completion[ChatChoice], frozen=True, kw_only=True):
    system_fingerprint: str | UnsetType = UNSET
    """Absent until the engine has reported it."""
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class TextCompletion(Completion[TextChoice], frozen=True, kw_only=True):
    system_fingerprint: str | UnsetType = UNSET


Choice = TypeVar("Choice")


class CompletionChunk(msgspec.Struct, Generic[Choice], frozen=True, kw_only=True, omit_defaults=True):
    """One event of a stream. `usage` is in the last one, if it was asked for."""

    id: str
    created: int
    model: str
    object: str
    choices: Sequence[Choice]
    usage: CompletionUsage | None = None


class ChatChunk(CompletionChunk[ChatChunkChoice], frozen=True, kw_only=True, omit_defaults=True):
    prompt_token_ids: list[int] | None = None
    """In the first chunk of a choice, with `return_token_ids`."""


class TextChunk(CompletionChunk[TextChunkChoice], frozen=True, kw_only=True, omit_defaults=True):
    pass


class ErrorDetail(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    """null only if a budget is used up; an absent parameter is otherwise the text "None"."""
    code: str


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorDetail


class TokenCounterErrorBody(msgspec.Struct, frozen=True):
    """The token counter reports a wrong body as FastAPI does, and the rest as the other routes do."""

    error: ErrorDetail | UnsetType = UNSET
    detail: str | list[FastApiDetail] | UnsetType = UNSET


class ModelCard(msgspec.Struct, frozen=True):
    """`created` and `owned_by` are the constants LiteLLM sends. The rest is absent until the model is loaded."""

    id: str
    object: str = "model"
    created: int = 1677610602
    owned_by: str = "openai"
    tool_format: str | UnsetType = UNSET
    """The name of the markup in which the model calls tools."""
    supports_reasoning: bool | UnsetType = UNSET
    """Whether the model can reason before it answers."""
    max_model_len: int | UnsetType = UNSET
    """The model's context, in tokens, under vLLM's name. The most tokens of an input of a model for embeddings."""
    capabilities: list[str] | UnsetType = UNSET
    """`embeddings` or `rerank`. Absent for models that generate."""
    embedding_dimensions: int | UnsetType = UNSET
    """The values of a vector."""


class ModelList(msgspec.Struct, frozen=True):
    data: list[ModelCard]
    object: str = "list"
