"""The routes of this dialect: under a prefix of its own, on its own host as at OpenAI, and by a setting under `/v1`."""

import time
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dragoman.core.context import Caller
from dragoman.core.services import QueueService, VisibleModels
from dragoman.dialects.http.codec import EndpointCodec
from dragoman.dialects.http.context import HttpOptions, RouteContext, authenticated, json_response, require_model
from dragoman.dialects.http.generation import respond
from dragoman.dialects.http.jobs import job_routes
from dragoman.dialects.http.operation import EXAMPLE_CHAT, EXAMPLE_TEXT, Operation
from dragoman.dialects.openai import codec, errors, wire
from dragoman.dialects.openai.embeddings import EmbeddingsRequest, EmbeddingsResponse, decode_embeddings

PREFIX = "/openai/v1"
VENDOR_PREFIX = "/v1"

AZURE_PREFIX = "/openai"
"""Azure's. Its deployments are among infermatic's paths, since LiteLLM serves them."""


def routes(service: QueueService, options: HttpOptions) -> list[BaseRoute]:
    """Return the dialect's routes beside those of others."""
    return [*_routes_under(PREFIX, service, options), *_model_routes(AZURE_PREFIX, service, options)]


def v1_routes(service: QueueService, options: HttpOptions) -> list[BaseRoute]:
    """Return the dialect's routes under OpenAI's own paths."""
    return _routes_under(VENDOR_PREFIX, service, options)


def vendor_routes(service: QueueService, options: HttpOptions) -> list[BaseRoute]:
    """Return the dialect's routes on a host of its own."""
    jobs = job_routes(RouteContext(service=service, read_key=codec.read_key, options=options), _ERRORS)
    return [*jobs, *v1_routes(service, options)]


def _routes_under(prefix: str, service: QueueService, options: HttpOptions) -> list[BaseRoute]:
    route = RouteContext(service=service, read_key=codec.read_key, options=options)

    chat = partial(respond, route=route, codec=_CHAT)
    text = partial(respond, route=route, codec=_TEXT)
    embeddings = partial(respond, route=route, codec=_EMBEDDINGS)

    return [
        Route(f"{prefix}/chat/completions", chat, methods=["POST"]),
        Route(f"{prefix}/completions", text, methods=["POST"]),
        Route(f"{prefix}/embeddings", embeddings, methods=["POST"]),
        *_model_routes(prefix, service, options),
    ]


def _model_routes(prefix: str, service: QueueService, options: HttpOptions) -> list[BaseRoute]:
    route = RouteContext(service=service, read_key=codec.read_key, options=options)
    started = int(time.time())  # Models of the settings are served from the start.

    async def models(request: Request) -> Response:
        async def handler(_caller: Caller, visible: VisibleModels) -> Response:
            cards = [codec.model_card(model, model.id, started) for model in visible.models()]
            return json_response(wire.ModelList("list", cards))

        return await authenticated(request, route, handler, _ERRORS)

    async def model(request: Request) -> Response:
        async def handler(_caller: Caller, visible: VisibleModels) -> Response:
            name = request.path_params["model_id"]
            found = require_model(visible, name)
            return json_response(codec.model_card(found, name, started))

        return await authenticated(request, route, handler, _ERRORS)

    return [
        Route(f"{prefix}/models", models, methods=["GET"]),
        Route(f"{prefix}/models/{{model_id:path}}", model, methods=["GET"]),
    ]


_ERRORS = errors.OpenAIErrors()

_CHAT = EndpointCodec("openai.chat", codec.decode_chat, _ERRORS)
_TEXT = EndpointCodec("openai.text", codec.decode_text, _ERRORS)

_EMBEDDINGS = EndpointCodec("openai.embeddings", decode_embeddings, _ERRORS)

ENDPOINT_CODECS = (_CHAT, _TEXT, _EMBEDDINGS)

_ERROR_STATUSES = (400, 401, 403, 404, 413, 429, 500, 502, 503, 504)


def _operations(prefix: str) -> tuple[Operation, ...]:
    """Return the routes under a prefix, in the OpenAPI document."""
    return (
        Operation(
            method="POST",
            path=f"{prefix}/chat/completions",
            summary="Chat completion",
            response=wire.ChatCompletion,
            error=wire.ErrorBody,
            error_statuses=_ERROR_STATUSES,
            request=wire.ChatRequest,
            chunk=wire.ChatChunk,
            example=EXAMPLE_CHAT,
        ),
        Operation(
            method="POST",
            path=f"{prefix}/completions",
            summary="Text completion",
            response=wire.TextCompletion,
            error=wire.ErrorBody,
            error_statuses=_ERROR_STATUSES,
            request=wire.TextRequest,
            chunk=wire.TextChunk,
            example=EXAMPLE_TEXT,
        ),
        Operation(
            method="POST",
            path=f"{prefix}/embeddings",
            summary="Embeddings",
            response=EmbeddingsResponse,
            error=wire.ErrorBody,
            error_statuses=_ERROR_STATUSES,
            request=EmbeddingsRequest,
            is_queueable=True,
        ),
        *_model_operations(prefix),
    )


def _model_operations(prefix: str) -> tuple[Operation, ...]:
    return (
        Operation(
            method="GET",
            path=f"{prefix}/models",
            summary="List models",
            response=wire.ModelList,
            error=wire.ErrorBody,
            error_statuses=(401, 403, 429, 503),
        ),
        Operation(
            method="GET",
            path=f"{prefix}/models/{{model_id}}",
            summary="One model",
            response=wire.ModelCard,
            error=wire.ErrorBody,
            error_statuses=(401, 403, 404, 429, 503),
        ),
    )


OPERATIONS = (*_operations(PREFIX), *_model_operations(AZURE_PREFIX))
"""The routes in the OpenAPI document."""

V1_OPERATIONS = _operations(VENDOR_PREFIX)
