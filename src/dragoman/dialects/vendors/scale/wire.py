"""The JSON bodies and the queries of this dialect, field by field, with their defaults and ranges."""

from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from dragoman.core.limits import MAX_MESSAGES, MAX_STOP_STRING_LENGTH
from dragoman.dialects.http.fastapi_errors import FastApiDetail
from dragoman.dialects.openai.logprobs import ChatTokenLogprob
from dragoman.dialects.openai.wire import MAX_TOP_LOGPROBS, Template, TemplateArguments

MAX_STOP_SEQUENCES = 4
MAX_PAGE_ITEMS = 10_000

Prompt = Annotated[str, Meta(min_length=1)]
StopSequence = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_STRING_LENGTH)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """The sampling fields of every completion route, in its body or in `model_parameters`."""

    temperature: Annotated[float, Meta(ge=0)] = 0.2
    """Clamped to the maximum, not rejected."""
    stop_sequences: Annotated[list[StopSequence], Meta(max_length=MAX_STOP_SEQUENCES)] = []
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    reasoning_effort: Literal["low", "medium", "high"] | None = None
    """Only reasoning models use it, in conversations."""
    top_p: Annotated[float, Meta(ge=0, le=1)] = 1.0
    top_k: Annotated[int, Meta(ge=-1)] = -1


class Bindings(msgspec.Struct, frozen=True, kw_only=True):
    """Engine parameters without a field of their own. Other names are ignored."""

    seed: Annotated[int, Meta(ge=0)] | None = None
    """At most core.limits.MAX_SEED, which is too large for msgspec's bounds."""
    repetition_penalty: Annotated[float, Meta(gt=0)] = 1.0
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    min_tokens: Annotated[int, Meta(ge=0)] = 0
    ignore_eos: bool = False


class ModelRequestParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bindings: Bindings


class DeploymentRequest(Sampling, frozen=True, kw_only=True):
    """The fields of both routes with the deployment in the path."""

    prompt: Prompt
    stream: bool = False
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    """Needs `logprobs`."""
    model_request_parameters: ModelRequestParameters | None = None


class DeploymentTextRequest(DeploymentRequest, frozen=True, kw_only=True):
    """`prompt` is raw text."""


class ContentPart(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a user message. An absent `type` follows from the other members."""

    type: Literal["text", "image_url", "image_data"] | None = None
    text: str | None = None
    image_url: Any = None
    image_data: Any = None


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    content: str | list[ContentPart]
    """Parts are allowed in user messages only."""
    role: Literal["user", "assistant", "system"] = "user"


class DeploymentChatRequest(DeploymentRequest, frozen=True, kw_only=True):
    """`prompt` is the new user message, after the history."""

    chat_history: Annotated[list[ChatMessage], Meta(max_length=MAX_MESSAGES - 1)]
    chat_template: Template | None = None
    """None: the model's own."""
    chat_template_kwargs: TemplateArguments = {}


class ModelParameters(Sampling, frozen=True, kw_only=True):
    """Sampling fields of the routes without a deployment in the path; two are spelled differently."""

    top_p: Annotated[float, Meta(ge=0, le=1)] = msgspec.field(name="topP", default=1.0)
    top_k: Annotated[int, Meta(ge=-1)] = msgspec.field(name="topK", default=-1)


class LastK(msgspec.Struct, frozen=True):
    k: Annotated[int, Meta(ge=1)]


class MemoryStrategy(msgspec.Struct, frozen=True, kw_only=True):
    """Only the last k messages are used."""

    name: Literal["last_k"] = "last_k"
    params: LastK


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    """The first system message."""
    memory_strategy: MemoryStrategy | None = None
    model_parameters: ModelParameters = ModelParameters()
    chat_template: Template | None = None
    """None: the model's own."""
    stream: bool = False


class TextRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    prompt: Prompt
    images: list[Any] = []
    model_parameters: ModelParameters = ModelParameters()
    stream: bool = False


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The query of both lists; `sort_by`, `view` and `account_id` are accepted and ignored."""

    page: Annotated[int, Meta(ge=1)] = 1
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_ITEMS)] = 100
    model_type: str | None = None
    model_group_id: str | None = None


class ChoiceLogprobsContent(msgspec.Struct, frozen=True):
    content: list[ChatTokenLogprob]


class ChoiceLogprobs(msgspec.Struct, frozen=True):
    """A choice's log-probabilities, without its text."""

    index: int
    logprobs: ChoiceLogprobsContent


class DeploymentCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of both routes with the deployment in the path, and each event of their streams."""

    completions: list[tuple[str, list[str]]]
    """One pair: the prompt as sent, and one text."""
    choices: list[ChoiceLogprobs] | None = None
    """Log-probabilities of this document's tokens; None unless requested."""
    finish_reason: str | None = None
    prompt_tokens: int = 0
    response_tokens: int = 0


class TokenUsage(msgspec.Struct, frozen=True):
    prompt: int
    completion: int
    total: int


class AssistantMessage(msgspec.Struct, frozen=True):
    role: str
    content: str


class ChatCompletion(msgspec.Struct, frozen=True):
    message: AssistantMessage
    finish_reason: str | None


class ChatCompletionBody(msgspec.Struct, frozen=True):
    chat_completion: ChatCompletion
    token_usage: TokenUsage | None


class TextCompletion(msgspec.Struct, frozen=True):
    text: str
    finish_reason: str | None
    response_metadata: None = None


class TextCompletionBody(msgspec.Struct, frozen=True):
    completion: TextCompletion
    token_usage: TokenUsage | None


Item = TypeVar("Item")


class ModelItem(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    account_id: str
    created_at: str
    created_by_identity_type: str = "user"
    created_by_user_id: str
    deployment_count: int = 1
    model_type: str
    name: str
    request_schema: dict[str, Any]
    response_schema: dict[str, Any]
    supports_multi_turn: bool
    model_vendor: str = "LLMENGINE"


class DeploymentItem(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    account_id: str
    created_at: str
    created_by_identity_type: str = "user"
    created_by_user_id: str
    name: str
    status: Literal["READY", "PENDING"]
    model_instance_id: str


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """One page of a list."""

    current_page: int
    items: list[Item]
    items_per_page: int
    total_item_count: int


class ErrorBody(msgspec.Struct, frozen=True):
    """`detail` is a text, or a list of everything that is wrong with the request."""

    detail: str | list[FastApiDetail]
