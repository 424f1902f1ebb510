"""The routes of this dialect. The first part of the path is a deployment's name, so they are registered last."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dragoman.core.service import GenerationService
from dragoman.dialects import openai_answer
from dragoman.dialects.exchange import Call, Door, ExchangeOptions, respond
from dragoman.dialects.float16 import codec, wire
from dragoman.dialects.operation import EXAMPLE_CHAT, EXAMPLE_TEXT, Operation


def routes(service: GenerationService, options: ExchangeOptions) -> list[BaseRoute]:
    """All routes of the dialect, answered by `service`."""
    door = Door(service, codec.read_key, options)

    async def chat(request: Request) -> Response:
        def decode(body: bytes, request_id: str) -> Call:
            deployment = codec.find_deployment(request.path_params["deployment"], service.models())
            return codec.decode_chat(body, request_id, deployment)

        return await respond(request, door, decode, _ERRORS)

    async def text(request: Request) -> Response:
        def decode(body: bytes, request_id: str) -> Call:
            deployment = codec.find_deployment(request.path_params["deployment"], service.models())
            return codec.decode_text(body, request_id, deployment)

        return await respond(request, door, decode, _ERRORS)

    return [
        Route("/{deployment}/v1/chat/completions", chat, methods=["POST"]),
        Route("/{deployment}/v1/completions", text, methods=["POST"]),
    ]


_ERRORS = codec.Float16Errors()


_ERROR_STATUSES = (400, 401, 402, 403, 404, 413, 422, 429, 500, 503)

OPERATIONS = (
    Operation(
        "POST",
        "/{deployment}/v1/chat/completions",
        "Chat completion",
        openai_answer.ChatCompletion,
        wire.ErrorBody,
        _ERROR_STATUSES,
        wire.ChatRequest,
        openai_answer.ChatChunk,
        example=EXAMPLE_CHAT,
    ),
    Operation(
        "POST",
        "/{deployment}/v1/completions",
        "Text completion",
        openai_answer.TextCompletion,
        wire.ErrorBody,
        _ERROR_STATUSES,
        wire.TextRequest,
        openai_answer.TextChunk,
        example=EXAMPLE_TEXT,
    ),
)
"""The routes for the OpenAPI document."""
