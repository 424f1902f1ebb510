"""The routes of this dialect. The model may be in the path."""

from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dragoman.core.context import Caller
from dragoman.core.services import QueueService, VisibleModels
from dragoman.dialects.http.codec import DecodeContext, EndpointCodec
from dragoman.dialects.http.context import (
    HttpOptions,
    RouteContext,
    authenticated,
    json_response,
    require_model,
    selected_account,
)
from dragoman.dialects.http.generation import respond
from dragoman.dialects.http.jobs import JobBody, JobEvent, QueuedJobBody, job_routes
from dragoman.dialects.http.large_bodies import receive
from dragoman.dialects.http.operation import EXAMPLE_CHAT, EXAMPLE_TEXT, Operation
from dragoman.dialects.vendors.infermatic import codec, embeddings, errors, tokenization, wire

_PREFIXES = ("/v1", "", "/engines/{model:path}", "/openai/deployments/{model:path}")


def routes(service: QueueService, options: HttpOptions) -> list[BaseRoute]:
    """Return the dialect's routes."""
    route = RouteContext(
        service=service, read_key=codec.read_key, options=options, id_headers=("x-request-id", "x-litellm-call-id")
    )

    chat = partial(respond, route=route, codec=_CHAT)
    text = partial(respond, route=route, codec=_TEXT)
    queued_chat = partial(respond, route=route, codec=_QUEUED_CHAT, queue="wait")
    queued_request = partial(respond, route=route, codec=_QUEUED_CHAT, queue="background")

    async def models(request: Request) -> Response:
        async def handler(_caller: Caller, visible: VisibleModels) -> Response:
            cards = [codec.model_card(model, model.id) for model in visible.models()]
            return json_response(wire.ModelList(cards))

        return await authenticated(request, route, handler, _LOOKUP_ERRORS)

    async def model(request: Request) -> Response:
        name = request.path_params["model_id"]

        async def handler(_caller: Caller, visible: VisibleModels) -> Response:
            found = require_model(visible, name)
            return json_response(codec.model_card(found, name))

        return await authenticated(request, route, handler, _LOOKUP_ERRORS)

    async def token_counter(request: Request) -> Response:
        async def handler(caller: Caller, visible: VisibleModels) -> Response:
            fetches = route.options.fetches_images
            context = DecodeContext("", 0, find_model=visible.find_model, fetches_images=fetches)
            sent = await receive(request, route, caller, partial(codec.decode_token_count, context=context))
            async with route.service.counting_turn(caller):
                total = await visible.count_tokens(sent.model, sent.prompt)
            served = visible.find_model(sent.model)
            assert served is not None, "what was counted is served"
            return json_response(wire.TokenCount(total, sent.model, served.id))

        return await authenticated(request, route, handler, errors.TokenCounterErrors())

    return [
        *(Route(f"{prefix}/chat/completions", chat, methods=["POST"]) for prefix in _PREFIXES),
        *(Route(f"{prefix}/completions", text, methods=["POST"]) for prefix in _PREFIXES),
        Route("/queue/chat/completions", queued_chat, methods=["POST"]),
        Route("/queue/request", queued_request, methods=["POST"]),
        # These routes serve jobs of all dialects, so they read the selected account of Scale's clients too.
        *job_routes(msgspec.structs.replace(route, read_account=selected_account), _LOOKUP_ERRORS),
        Route("/utils/token_counter", token_counter, methods=["POST"]),
        *tokenization.tokenization_routes(route),
        *embeddings.embedding_routes(route),
        *(Route(f"{prefix}/models", models, methods=["GET"]) for prefix in ("/v1", "")),
        *(Route(f"{prefix}/models/{{model_id:path}}", model, methods=["GET"]) for prefix in ("/v1", "")),
    ]


_CHAT_ERRORS = errors.InfermaticErrors("/chat/completions", "messages")
_TEXT_ERRORS = errors.InfermaticErrors("/completions", "prompt")
_LOOKUP_ERRORS = errors.LookupErrors()

_CHAT = EndpointCodec("infermatic.chat", codec.decode_chat, _CHAT_ERRORS)
_TEXT = EndpointCodec("infermatic.text", codec.decode_text, _TEXT_ERRORS)
_QUEUED_CHAT = EndpointCodec("infermatic.queued_chat", codec.decode_queued_chat, _CHAT_ERRORS)

ENDPOINT_CODECS = (_CHAT, _TEXT, _QUEUED_CHAT, *embeddings.ENDPOINT_CODECS)


_ERROR_STATUSES = (400, 401, 403, 408, 413, 429, 500, 502, 503)
_JOB_STATUSES = (400, 401, 403, 404, 429, 500)
_EXAMPLE_COUNT: dict[str, object] = {"model": "{model}", "prompt": "Once upon a time"}


def _operations(prefix: str) -> list[Operation]:
    path = prefix.replace(":path", "")
    return [
        Operation(
            method="POST",
            path=f"{path}/chat/completions",
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
            path=f"{path}/completions",
            summary="Text completion",
            response=wire.TextCompletion,
            error=wire.ErrorBody,
            error_statuses=_ERROR_STATUSES,
            request=wire.TextRequest,
            chunk=wire.TextChunk,
            example=EXAMPLE_TEXT,
        ),
    ]


_QUEUE_STATUSES = (*_ERROR_STATUSES, 410)

_QUEUE_OPERATIONS = (
    Operation(
        method="POST",
        path="/queue/chat/completions",
        summary="Chat completion through the queue",
        response=wire.ChatCompletion,
        error=wire.ErrorBody,
        error_statuses=_QUEUE_STATUSES,
        request=wire.ChatRequest,
        chunk=wire.ChatChunk,
        is_always_queued=True,
        example=EXAMPLE_CHAT,
    ),
    Operation(
        method="POST",
        path="/queue/request",
        summary="Queue a chat completion",
        response=QueuedJobBody,
        error=wire.ErrorBody,
        error_statuses=_ERROR_STATUSES,
        request=wire.ChatRequest,
        is_always_queued=True,
        example=EXAMPLE_CHAT,
    ),
    Operation(
        method="GET",
        path="/queue/response/{id}",
        summary="What became of a queued request of any dialect",
        response=JobBody,
        error=wire.ErrorBody,
        error_statuses=_JOB_STATUSES,
        chunk=JobEvent,
    ),
    Operation(
        method="DELETE",
        path="/queue/response/{id}",
        summary="Cancel a queued request",
        response=JobBody,
        error=wire.ErrorBody,
        error_statuses=_JOB_STATUSES,
    ),
)

_LIST_STATUSES = (400, 401, 403, 429)

_LOOKUP_STATUSES = (400, 401, 403, 404, 429)

OPERATIONS = (
    *(operation for prefix in _PREFIXES for operation in _operations(prefix)),
    *_QUEUE_OPERATIONS,
    Operation(
        method="POST",
        path="/utils/token_counter",
        summary="Count tokens",
        response=wire.TokenCount,
        error=wire.TokenCounterErrorBody,
        error_statuses=(400, 401, 403, 404, 408, 413, 422, 429, 500, 502),
        request=wire.TokenCountRequest,
        example=_EXAMPLE_COUNT,
    ),
    *tokenization.OPERATIONS,
    *embeddings.OPERATIONS,
    *(
        operation
        for prefix in ("/v1", "")
        for operation in (
            Operation(
                method="GET",
                path=f"{prefix}/models",
                summary="List models",
                response=wire.ModelList,
                error=wire.ErrorBody,
                error_statuses=_LIST_STATUSES,
            ),
            Operation(
                method="GET",
                path=f"{prefix}/models/{{model_id}}",
                summary="One model",
                response=wire.ModelCard,
                error=wire.ErrorBody,
                error_statuses=_LOOKUP_STATUSES,
            ),
        )
    ),
)
"""The routes in the OpenAPI document."""
