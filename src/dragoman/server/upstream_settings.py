"""The settings of upstreams."""

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from dragoman.server.secret_settings import SecretSetting

Text: TypeAlias = Annotated[str, Meta(min_length=1)]
PositiveSeconds: TypeAlias = Annotated[float, Meta(gt=0)]
RoutingPolicy: TypeAlias = Literal["cache", "least", "weighted", "first"]
UpstreamKindName: TypeAlias = Literal["vllm", "sglang", "llama-server", "ollama", "dragoman", "openai"]


class UpstreamTimeoutSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Time limits of requests to an upstream, in seconds."""

    connect: PositiveSeconds = 2.0
    """Time for a connection."""
    first_token: PositiveSeconds = 120.0
    """Time from the request to the first token, or to the first byte of embeddings and scores."""
    between_tokens: PositiveSeconds = 60.0
    """Time without a byte after that."""
    total: PositiveSeconds = 3600.0
    """Time of the whole request."""


class UpstreamSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another server that answers for the deployment."""

    url: Text
    """`http://HOST:PORT`, `https://HOST` or `unix:///PATH`, with or without `/v1`."""
    kind: UpstreamKindName | None = None
    """What it is. Not set: found by its list of models."""
    model: Text | None = None
    """What it calls the model. Not set: as the deployment is called."""
    key: SecretSetting | None = None
    """Its API key."""
    lists_models: bool = True
    """Whether it has `/v1/models`. `false`: it is ready when it answers that the route is missing (404, 405, 501)."""
    context_length: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    """Tokens of prompt and answer together. Not set: as it says."""
    tokenizer: Text | None = None
    """The model's `tokenizer.json` on this machine, or its folder: it counts and converts tokens instead of the
    upstream. Conversations need `tokenizer_config.json` or `chat_template.jinja` beside it. It takes the package
    `tokenizers`, of the extra of this name."""
    weight: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    """Share of the requests that it gets, compared with the others."""
    priority: Annotated[int, Meta(ge=0, le=1000)] = 0
    """Those with the lowest one are used; the others when none of these can take a request."""
    concurrency: Annotated[int, Meta(ge=1, le=65536)] = 64
    """Requests that each worker sends to it at the same time."""
    timeouts: UpstreamTimeoutSettings = UpstreamTimeoutSettings()
    """Time limits."""
