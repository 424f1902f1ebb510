"""The canonical request for vectors or scores: every dialect translates to it, and embedding engines understand it."""

from typing import Literal

from dragoman.core.request import PromptTruncation, RequestPart, TextPrompt, TokenPrompt

ModelKind = Literal["generation", "embeddings", "rerank"]
"""What a model is for."""


class TextPair(RequestPart, frozen=True, tag="pair"):
    """A query and a document, of which a reranker computes one score. The text of special tokens in them is text."""

    query: str
    document: str
    truncation: PromptTruncation | None = None
    """Of the document. The query is never shortened."""


EmbeddingInput = TextPrompt | TokenPrompt | TextPair


class EmbeddingRequest(RequestPart, frozen=True, kw_only=True):
    """Several inputs, of each of which a vector or a score is computed."""

    model: str
    """The name that the client sent: of a deployment, or an alias."""
    inputs: tuple[EmbeddingInput, ...]
    """Texts and token ids for a model of the kind embeddings, pairs for one of the kind rerank."""
    parameter: str = "input"
    """The client's name of `inputs`, for errors."""
    dimensions: int | None = None
    """Keep so many of the first values of each vector; None: all."""
    activation: bool = True
    """Whether a vector is scaled to length 1, and a score to a probability."""
    priority: int = 0
    """As in GenerationRequest."""
    owner: str = ""
    """As in GenerationRequest."""
    trace: str = ""
    """As in GenerationRequest."""
