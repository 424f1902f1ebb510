"""The routes of this dialect. They are registered last, as their paths begin with a deployment's name."""

from functools import partial

from starlette.routing import BaseRoute, Route

from dragoman.core.services import QueueService
from dragoman.dialects.http.codec import EndpointCodec
from dragoman.dialects.http.context import HttpOptions, RouteContext
from dragoman.dialects.http.generation import respond
from dragoman.dialects.http.jobs import job_routes
from dragoman.dialects.http.operation import EXAMPLE_CHAT, EXAMPLE_TEXT, Operation
from dragoman.dialects.openai import wire as openai_wire
from dragoman.dialects.vendors.float16 import codec, errors, wire


def routes(service: QueueService, options: HttpOptions) -> list[BaseRoute]:
    """Return the dialect's routes beside those of others."""
    route = RouteContext(service=service, read_key=codec.read_key, options=options)

    chat = partial(respond, route=route, codec=_CHAT)
    text = partial(respond, route=route, codec=_TEXT)

    return [
        Route("/{deployment}/v1/chat/completions", chat, methods=["POST"]),
        Route("/{deployment}/v1/completions", text, methods=["POST"]),
    ]


def vendor_routes(service: QueueService, options: HttpOptions) -> list[BaseRoute]:
    """Return the dialect's routes on a host of its own."""
    return [
        *job_routes(RouteContext(service=service, read_key=codec.read_key, options=options), _ERRORS),
        *routes(service, options),
    ]


_ERRORS = errors.Float16Errors()
_CHAT = EndpointCodec("float16.chat", codec.decode_chat, _ERRORS)
_TEXT = EndpointCodec("float16.text", codec.decode_text, _ERRORS)

ENDPOINT_CODECS = (_CHAT, _TEXT)


_ERROR_STATUSES = (400, 401, 402, 403, 404, 413, 422, 429, 500, 502, 503, 504)

OPERATIONS = (
    Operation(
        method="POST",
        path="/{deployment}/v1/chat/completions",
        summary="Chat completion",
        response=openai_wire.ChatCompletion,
        error=wire.ErrorBody,
        error_statuses=_ERROR_STATUSES,
        request=wire.ChatRequest,
        chunk=openai_wire.ChatChunk,
        example=EXAMPLE_CHAT,
    ),
    Operation(
        method="POST",
        path="/{deployment}/v1/completions",
        summary="Text completion",
        response=openai_wire.TextCompletion,
        error=wire.ErrorBody,
        error_statuses=_ERROR_STATUSES,
        request=wire.TextRequest,
        chunk=openai_wire.TextChunk,
        example=EXAMPLE_TEXT,
    ),
)
"""The routes in the OpenAPI document."""
