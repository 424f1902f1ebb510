"""The models that a server offers."""

import msgspec

from dragoman.core.embedding import ModelKind


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model or adapter that clients may put into `model`."""

    id: str
    aliases: tuple[str, ...]
    context_length: int | None
    """In tokens; None until the engine has reported it."""
    fingerprint: str | None = None
    """Changes exactly when weights, adapter, chat template or engine version do; None while it is not known."""
    kind: ModelKind = "generation"
    embedding_dimensions: int | None = None
    """The values of a whole vector; None until the engine has reported it, and for other models."""
    takes_images: bool = False
    """Whether its messages may hold images."""
    takes_verbosity: bool = False
    """Whether it may be told how much to write."""
    supports_reasoning: bool = False
    """Whether the model can reason before it answers."""
    tool_format: str | None = None
    """The name of the markup in which the model calls tools; None until the engine has reported it."""
    base: str | None = None
    """The `id` of the model that an adapter belongs to; None: this is no adapter."""
    created_at: int | None = None
    """When an adapter was registered, in Unix seconds; None: it is there from the start."""


class TokenizedPrompt(msgspec.Struct, frozen=True):
    """The tokens of a prompt."""

    token_ids: tuple[int, ...]
    texts: tuple[str, ...]
    """Each token as it stands in the vocabulary, which may write spaces and bytes in another way."""
