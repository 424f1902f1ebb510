"""Reranking as Jina and Cohere began it, and scores as vLLM gives them."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dragoman.core.embedding import EmbeddingRequest, TextPair
from dragoman.core.errors import BadRequest
from dragoman.core.jobs import DEFAULT_PRIORITY
from dragoman.core.limits import MAX_DOCUMENTS
from dragoman.core.request import PromptTruncation, TextPrompt
from dragoman.dialects.http.codec import DecodeContext, DecodedRequest
from dragoman.dialects.http.validation import InvalidFields, MissingField, Violation, decode_body
from dragoman.dialects.openai.embeddings import (
    PromptUsage,
    VectorBuilder,
    priority,
    requested_model,
    truncation,
)


class DocumentText(msgspec.Struct, frozen=True):
    text: str


Documents = Annotated[list[str | DocumentText], Meta(min_length=1, max_length=MAX_DOCUMENTS)]
Texts = str | Annotated[list[str], Meta(min_length=1, max_length=MAX_DOCUMENTS)]


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A query and the documents to put in order."""

    model: str | None = None
    query: Annotated[str, Meta(min_length=1)]
    documents: Documents | None = None
    """Texts, or objects with a `text`."""
    texts: Annotated[list[str], Meta(min_length=1, max_length=MAX_DOCUMENTS)] | None = None
    """In place of `documents`: the response is a plain array, as Text Embeddings Inference sends it."""
    top_n: Annotated[int, Meta(ge=0)] | None = None
    """Return so many of the best. None and 0: all."""
    return_documents: bool = True
    return_text: bool = False
    """Return the text of `texts`."""
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1)] | None = None
    """Of a query and a document together. -1: as many as the model takes. None: a longer document is an error."""
    use_activation: bool | None = None
    """Whether scores are probabilities; None: they are."""
    raw_scores: bool = False
    """Return the model's logits as scores."""
    priority: Annotated[int, Meta(ge=0)] = DEFAULT_PRIORITY


class RerankResult(msgspec.Struct, frozen=True):
    index: int
    """The position of the document."""
    relevance_score: float
    document: DocumentText | UnsetType = UNSET


class RerankResponse(msgspec.Struct, frozen=True):
    id: str
    results: list[RerankResult]
    """Best first."""
    model: str
    usage: PromptUsage
    object: str = "list"


class TextScore(msgspec.Struct, frozen=True):
    """One element of the array that answers `texts`."""

    index: int
    score: float
    text: str | UnsetType = UNSET


class ScoreRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Two texts, or lists of them: in pairs, or the first one with all others."""

    model: str | None = None
    text_1: Texts | None = None
    text_2: Texts | None = None
    queries: Texts | None = None
    """Another name of `text_1`."""
    documents: Texts | None = None
    """Another name of `text_2`."""
    data_1: Texts | None = None
    data_2: Texts | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1)] | None = None
    use_activation: bool | None = None
    priority: Annotated[int, Meta(ge=0)] = DEFAULT_PRIORITY


class ScoreObject(msgspec.Struct, frozen=True):
    index: int
    score: float
    object: str = "score"


class ScoreResponse(msgspec.Struct, frozen=True):
    id: str
    created: int
    model: str
    data: list[ScoreObject]
    usage: PromptUsage
    object: str = "list"


def decode_rerank(body: bytes, context: DecodeContext) -> DecodedRequest:
    """Decode a request for reranking. Raises BadRequest."""
    sent = decode_body(body, RerankRequest)
    documents = sent.texts if sent.texts is not None else _document_texts(sent)
    parameter = "documents" if sent.texts is None else "texts"
    shortened = truncation(sent.truncate_prompt_tokens)
    activation = not sent.raw_scores if sent.use_activation is None else sent.use_activation
    request = EmbeddingRequest(
        model=requested_model(sent.model, context),
        inputs=tuple(TextPair(sent.query, document, shortened) for document in documents),
        parameter=parameter,
        activation=activation,
        priority=priority(sent.priority),
    )
    builder = RerankBuilder(sent, f"rerank-{context.answer_id}", request.model, documents)
    return DecodedRequest(embedding=request, stream=False, builder=builder, priority=request.priority)


def _document_texts(sent: RerankRequest) -> list[str]:
    if sent.documents is None:
        raise InvalidFields([Violation(("documents",), MissingField())])
    return [document if isinstance(document, str) else document.text for document in sent.documents]


class RerankBuilder(VectorBuilder):
    """Puts documents in order."""

    def __init__(self, sent: RerankRequest, answer_id: str, model: str, documents: Sequence[str]) -> None:
        super().__init__()
        self._sent = sent
        self._answer_id = answer_id
        self._model = model
        self._documents = documents

    def document(self, usage: PromptUsage) -> RerankResponse | list[TextScore]:
        from dragoman.dialects.openai.vectors import json_numbers

        scores = json_numbers(b"".join(self.vectors))
        best = sorted(range(len(scores)), key=lambda index: -scores[index])[: self._sent.top_n or None]
        if self._sent.texts is not None:
            return [TextScore(index, scores[index], self._text(index)) for index in best]
        results = [RerankResult(index, scores[index], self._document(index)) for index in best]
        return RerankResponse(self._answer_id, results, self._model, usage)

    def _text(self, index: int) -> str | UnsetType:
        return self._documents[index] if self._sent.return_text else UNSET

    def _document(self, index: int) -> DocumentText | UnsetType:
        return DocumentText(self._documents[index]) if self._sent.return_documents else UNSET


_KIND = "kind"


def decode_score(body: bytes, context: DecodeContext) -> DecodedRequest:
    """Decode a request for scores: of a reranker, or the cosines of a model for embeddings. Raises BadRequest."""
    sent = decode_body(body, ScoreRequest)
    model = requested_model(sent.model, context)
    pairs = _pairs(sent)
    served = context.find_model(model) if context.find_model is not None else None
    kind = context.arguments.get(_KIND, "rerank") if served is None else served.kind
    shortened = truncation(sent.truncate_prompt_tokens)
    request = EmbeddingRequest(
        model=model,
        inputs=_vector_inputs(pairs, shortened) if kind == "embeddings" else _pair_inputs(pairs, shortened),
        parameter="text_2",
        activation=kind == "embeddings" or sent.use_activation is not False,
        priority=priority(sent.priority),
    )
    return DecodedRequest(
        embedding=request,
        stream=False,
        builder=ScoreBuilder(context, model, compares_vectors=kind == "embeddings"),
        priority=request.priority,
        extra_arguments={_KIND: kind},
    )


def _pair_inputs(pairs: Sequence[tuple[str, str]], shortened: PromptTruncation | None) -> tuple[TextPair, ...]:
    return tuple(TextPair(first, second, shortened) for first, second in pairs)


def _vector_inputs(pairs: Sequence[tuple[str, str]], shortened: PromptTruncation | None) -> tuple[TextPrompt, ...]:
    return tuple(TextPrompt(text, shortened) for pair in pairs for text in pair)


def _pairs(sent: ScoreRequest) -> list[tuple[str, str]]:
    first = _texts(("text_1", "queries", "data_1"), (sent.text_1, sent.queries, sent.data_1))
    second = _texts(("text_2", "documents", "data_2"), (sent.text_2, sent.documents, sent.data_2))
    if len(first) == 1:
        first *= len(second)
    if len(first) != len(second):
        reason = f"text_1 must be one text or as many as text_2, got {len(first)} and {len(second)}"
        raise BadRequest(reason, "text_1")
    return list(zip(first, second, strict=True))


def _texts(names: Sequence[str], values: Sequence[str | list[str] | None]) -> list[str]:
    """Return the texts that were sent under one of several names. Raises BadRequest."""
    found = [(name, value) for name, value in zip(names, values, strict=True) if value is not None]
    if not found:
        raise InvalidFields([Violation((names[0],), MissingField())])
    if len(found) > 1:
        raise BadRequest(f"{found[0][0]} and {found[1][0]} are the same field; send one of them", found[1][0])
    value = found[0][1]
    return [value] if isinstance(value, str) else value


class ScoreBuilder(VectorBuilder):
    """Lists the scores of pairs."""

    def __init__(self, context: DecodeContext, model: str, *, compares_vectors: bool) -> None:
        """`compares_vectors`: a score is the cosine of two vectors."""
        super().__init__()
        self._answer_id = f"score-{context.answer_id}"
        self._created = context.created
        self._model = model
        self._compares_vectors = compares_vectors

    def document(self, usage: PromptUsage) -> ScoreResponse:
        from dragoman.dialects.openai.vectors import cosine, json_numbers

        scores = self.vectors
        if self._compares_vectors:
            scores = list(map(cosine, self.vectors[::2], self.vectors[1::2]))
        data = [ScoreObject(index, score) for index, score in enumerate(json_numbers(b"".join(scores)))]
        return ScoreResponse(self._answer_id, self._created, self._model, data, usage)
