"""The routes of models for embeddings and rerankers: LiteLLM's, vLLM's and llama-server's paths."""

from functools import partial

import msgspec
from starlette.routing import Route

from dragoman.dialects.http.codec import EndpointCodec
from dragoman.dialects.http.context import RouteContext
from dragoman.dialects.http.generation import respond
from dragoman.dialects.http.operation import Operation
from dragoman.dialects.openai.embeddings import EmbeddingsRequest, EmbeddingsResponse, decode_embeddings
from dragoman.dialects.openai.reranking import (
    RerankRequest,
    RerankResponse,
    ScoreRequest,
    ScoreResponse,
    decode_rerank,
    decode_score,
)
from dragoman.dialects.vendors.infermatic.errors import InfermaticErrors
from dragoman.dialects.vendors.infermatic.wire import ErrorBody

_EMBEDDINGS = EndpointCodec("infermatic.embeddings", decode_embeddings, InfermaticErrors("/embeddings", "input"))
_RERANK = EndpointCodec("infermatic.rerank", decode_rerank, InfermaticErrors("/rerank", "documents"))
_SCORE = EndpointCodec("infermatic.score", decode_score, InfermaticErrors("/score", "text_2"))

ENDPOINT_CODECS = (_EMBEDDINGS, _RERANK, _SCORE)

_EMBEDDING_PATHS = (
    "/v1/embeddings",
    "/embeddings",
    "/engines/{model:path}/embeddings",
    "/openai/deployments/{model:path}/embeddings",
)
_RERANK_PATHS = ("/v1/rerank", "/rerank", "/v2/rerank", "/v1/reranking", "/reranking")
_SCORE_PATHS = ("/v1/score", "/score")


def embedding_routes(route: RouteContext) -> list[Route]:
    """Return the routes."""
    paths = ((_EMBEDDINGS, _EMBEDDING_PATHS), (_RERANK, _RERANK_PATHS), (_SCORE, _SCORE_PATHS))
    return [
        Route(path, partial(respond, route=route, codec=codec), methods=["POST"])
        for codec, own in paths
        for path in own
    ]


def _operation(path: str, summary: str, request: type[msgspec.Struct], response: type[msgspec.Struct]) -> Operation:
    return Operation(
        method="POST",
        path=path.replace(":path", ""),
        summary=summary,
        request=request,
        response=response,
        error=ErrorBody,
        error_statuses=(400, 401, 403, 408, 413, 429, 500, 502, 503),
        is_queueable=True,
    )


OPERATIONS = (
    *(_operation(path, "Embeddings", EmbeddingsRequest, EmbeddingsResponse) for path in _EMBEDDING_PATHS),
    *(_operation(path, "Order documents by relevance", RerankRequest, RerankResponse) for path in _RERANK_PATHS),
    *(_operation(path, "Scores of pairs of texts", ScoreRequest, ScoreResponse) for path in _SCORE_PATHS),
)
