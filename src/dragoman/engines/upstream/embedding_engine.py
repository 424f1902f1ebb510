"""An upstream whose model computes embeddings or scores."""

import base64
import binascii
from collections.abc import AsyncGenerator, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from dragoman.core import logs
from dragoman.core.embedding import EmbeddingInput, EmbeddingRequest, ModelKind, TextPair
from dragoman.core.errors import BadRequest, EngineFailed, Overloaded, UpstreamUnavailable
from dragoman.core.events import Embedding, Event, Usage
from dragoman.core.limits import is_token_count
from dragoman.core.request import TextPrompt
from dragoman.engines.base import Embeds
from dragoman.engines.upstream.discovery import DeclaredModel
from dragoman.engines.upstream.engine import UpstreamEngine
from dragoman.engines.upstream.failures import error_of
from dragoman.engines.upstream.http_client import UpstreamClient
from dragoman.engines.upstream.http_request import UpstreamRequest, identifying_headers
from dragoman.engines.upstream.kinds import KindName
from dragoman.engines.upstream.replies import decode_reply
from dragoman.engines.upstream.token_counts import estimate_tokens
from dragoman.engines.upstream.transport_errors import TransportError

_KINDS_OF_VLLM = ("vllm", "dragoman")
"""Those that take vLLM's fields, and rerank in its form. Others call logits and probabilities the same."""

_MAX_BYTES_PER_INPUT = 256 * 1024
"""Of a response: a vector of 8,192 values as numbers has less."""

_log = logs.get_logger(__name__)


Found = TypeVar("Found", bound=msgspec.Struct)


class _Vector(msgspec.Struct):
    index: int
    embedding: str | list[float]


class _Result(msgspec.Struct):
    index: int
    relevance_score: float


class _Tokens(msgspec.Struct):
    prompt_tokens: int | None = None
    total_tokens: int | None = None


class _Embeddings(msgspec.Struct):
    data: list[_Vector]
    usage: _Tokens | None = None


class _Ranking(msgspec.Struct):
    results: list[_Result]
    usage: _Tokens | None = None


class UpstreamEmbeddingEngine(UpstreamEngine, Embeds):
    """Implements engines.base.Engine and Embeds."""

    embedding_dimensions: int | None = None

    def __init__(
        self,
        name: str,
        client: UpstreamClient,
        *,
        model: str,
        model_kind: ModelKind,
        kind: KindName | None = None,
        declared: DeclaredModel | None = None,
    ) -> None:
        super().__init__(name, client, model=model, kind=kind, declared=declared)
        self.model_kind = model_kind

    async def count_input_tokens(self, request: EmbeddingRequest) -> int:
        return sum(map(_estimate, request.inputs))

    async def embed(self, request: EmbeddingRequest) -> AsyncGenerator[Event]:
        await self._find_kind()
        compute = self._rank if self.model_kind == "rerank" else self._embed
        self._running += 1
        try:
            vectors, tokens = await compute(request)
        except TransportError as failure:
            error = error_of(failure, has_output=False)
            if isinstance(error, EngineFailed | Overloaded):
                self._log_failed_embedding(str(failure))
            raise error from None
        except (msgspec.MsgspecError, binascii.Error, ValueError, LookupError):
            self._log_failed_embedding("malformed response")
            raise UpstreamUnavailable("The upstream's response is malformed") from None
        finally:
            self._running -= 1
        for index, values in enumerate(vectors):
            yield Embedding(index, values)
        yield Usage(tokens or sum(map(_estimate, request.inputs)), 0, 0, source="upstream" if tokens else "estimated")

    def _log_failed_embedding(self, reason: str) -> None:
        _log.warning("upstream_embedding_failed", upstream=self._name, reason=reason)

    async def _embed(self, request: EmbeddingRequest) -> tuple[list[bytes], int]:
        inputs = [each for each in request.inputs if not isinstance(each, TextPair)]
        texts = [each.text if isinstance(each, TextPrompt) else each.token_ids for each in inputs]
        body = {"model": self._model, "input": texts, "encoding_format": "base64", **self._options(request)}
        if request.dimensions is not None:
            body["dimensions"] = request.dimensions
        found = await self._post("/v1/embeddings", body, _Embeddings, request)
        vectors = {each.index: _floats(each.embedding) for each in found.data}
        return [vectors[index] for index in range(len(inputs))], _reported(found.usage)

    async def _rank(self, request: EmbeddingRequest) -> tuple[list[bytes], int]:
        """Send one request for each query."""
        if not self._takes_vllms_fields:
            raise BadRequest(f"The model '{request.model}' is on a server whose scores are not comparable", "model")
        scores: dict[int, bytes] = {}
        tokens = 0
        by_query: dict[str, list[int]] = {}
        pairs = [each for each in request.inputs if isinstance(each, TextPair)]
        for index, pair in enumerate(pairs):
            by_query.setdefault(pair.query, []).append(index)
        for query, indices in by_query.items():
            documents = [pairs[index].document for index in indices]
            body = {"model": self._model, "query": query, "documents": documents, **self._options(request)}
            found = await self._post("/v1/rerank", body, _Ranking, request)
            scores |= {indices[each.index]: _floats([each.relevance_score]) for each in found.results}
            tokens += _reported(found.usage)
        return [scores[index] for index in range(len(pairs))], tokens

    async def _post(self, path: str, body: dict[str, Any], kind: type[Found], request: EmbeddingRequest) -> Found:
        upstream_request = UpstreamRequest(
            path=path, body=msgspec.json.encode(body), headers=identifying_headers("", request.trace)
        )
        max_bytes = (1 + len(request.inputs)) * _MAX_BYTES_PER_INPUT
        reply = await self._client.fetch(upstream_request, max_bytes=max_bytes)
        return decode_reply(msgspec.json.Decoder(kind).decode, reply)

    @property
    def _takes_vllms_fields(self) -> bool:
        return self._kind is not None and self._kind.name in _KINDS_OF_VLLM

    def _options(self, request: EmbeddingRequest) -> dict[str, Any]:
        """Return the fields that only some servers have. Raises BadRequest if they are needed and not there."""
        first = request.inputs[0]
        truncation, options = first.truncation, dict[str, Any]()
        if truncation is not None:
            options["truncate_prompt_tokens"] = truncation.tokens or -1
            options["truncation_side"] = truncation.side
        if isinstance(first, TextPrompt) and not first.add_special_tokens:
            options["add_special_tokens"] = False
        if not request.activation:
            options["use_activation"] = False
        if options and not self._takes_vllms_fields:
            field = next(iter(options))
            raise BadRequest(f"The model '{request.model}' is on a server that does not support {field}", field)
        return options


def _estimate(each: EmbeddingInput) -> int:
    if isinstance(each, TextPair):
        return estimate_tokens(TextPrompt(each.query)) + estimate_tokens(TextPrompt(each.document))
    return estimate_tokens(each)


def _reported(usage: _Tokens | None) -> int:
    """Return the tokens that were counted; 0 for none, or a number that is none."""
    tokens = 0 if usage is None else usage.prompt_tokens or usage.total_tokens or 0
    return tokens if is_token_count(tokens) else 0


def _floats(sent: str | Sequence[float]) -> bytes:
    """Return a vector's 32-bit floats. Raises ValueError for values that are no numbers."""
    decoded = base64.b64decode(sent, validate=True) if isinstance(sent, str) else np.array(sent, dtype="<f4").tobytes()
    values = np.frombuffer(decoded, dtype="<f4")
    if not len(values) or not np.isfinite(values).all():
        raise ValueError("a vector is empty or has values that are no numbers")
    return decoded
