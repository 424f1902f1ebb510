"""The JSON bodies of this dialect, field by field, with the service's own defaults and our ranges."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from dragoman.core.limits import MAX_CHOICES, MAX_MESSAGES
from dragoman.dialects.openai.wire import ChatMessage, NamedTool, StreamOptions, Tools

MAX_PROMPTS = 16
MAX_NAME = 512

Penalty = Annotated[float, Meta(ge=-2, le=2)]


class ChatMessages(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a chat request that has the prompts."""

    messages: str | Annotated[list[str | ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    """One conversation, or one or several prompts; an array holds one kind only."""


class ChatRequest(ChatMessages, frozen=True, kw_only=True):
    """Unknown fields are ignored, stop, seed and logprobs among them."""

    model: str
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    ignore_eos: bool = False
    max_tokens: Annotated[int, Meta(ge=1)] = 256
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] = 1
    """Choices per prompt."""
    stream: bool = False
    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Meta(ge=0, le=1)] = 1.0
    tools: Tools = []
    tool_choice: Literal["none", "auto", "any", "required"] | NamedTool = "auto"
    """`auto` without tools equals `none`; `any` equals `required`."""
    stream_options: StreamOptions = StreamOptions()


class AdapterRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter to register."""

    model_name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
    model_source: Literal["HF_HUB", "LOCAL"]
    hf_revision: str | None = None
    hf_token: str | None = None
    """A secret for the download only: never stored, logged or returned."""
    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)] | None = None
    """None: the same as `model_name`."""
    base_model_name: str | None = None
    """Our addition: the base model, if the adapter fits several."""


class ApiKey(msgspec.Struct, frozen=True):
    name: str = ""


class User(msgspec.Struct, frozen=True):
    email: str = ""
    first_name: str = ""
    last_name: str = ""
    profile_image_url: str = ""


class Creator(msgspec.Struct, frozen=True):
    """The creator of a deployment; without accounts all members are empty."""

    actor_type: str = "USER"
    api_key: ApiKey = ApiKey()
    user: User = User()


class ActiveDeployment(msgspec.Struct, frozen=True):
    created_at: int
    creator: Creator
    model_name: str
    model_source: str


class BaseModelBody(msgspec.Struct, frozen=True):
    """`unit_price` is in the operator's currency per million tokens."""

    active_deployment: ActiveDeployment
    name: str
    unit_price: float


class AdapterDeployment(msgspec.Struct, frozen=True, kw_only=True):
    base_model_name: str
    created_at: int
    creator: Creator
    hf_revision: str | None
    """None: it is not from the hub."""
    model_name: str
    model_source: str


class AdapterBody(msgspec.Struct, frozen=True):
    """`unit_price` is in the operator's currency per million tokens."""

    active_deployment: AdapterDeployment
    name: str
    unit_price: float


class ErrorDetail(msgspec.Struct, frozen=True):
    """`param` is the field at fault; `message` names the place in it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorDetail
