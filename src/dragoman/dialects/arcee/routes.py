"""The routes of this dialect: under `/api/v1`, and on a host of its own also under `/v1`."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dragoman.core.service import Caller, GenerationService, VisibleModels
from dragoman.dialects import openai_answer
from dragoman.dialects.arcee import codec, wire
from dragoman.dialects.exchange import Call, Door, ExchangeOptions, guard, respond
from dragoman.dialects.operation import EXAMPLE_CHAT, Operation


def routes(service: GenerationService, options: ExchangeOptions) -> list[BaseRoute]:
    """All routes of the dialect beside others, answered by `service`."""
    return _routes_under(("/api/v1",), service, options)


def own_routes(service: GenerationService, options: ExchangeOptions) -> list[BaseRoute]:
    """All routes of the dialect on a host of its own, answered by `service`."""
    return _routes_under(("/api/v1", "/v1"), service, options)


def _routes_under(prefixes: Sequence[str], service: GenerationService, options: ExchangeOptions) -> list[BaseRoute]:
    door = Door(service, codec.read_key, options)

    async def chat(request: Request) -> Response:
        def decode(body: bytes, request_id: str) -> Call:
            return codec.decode_chat(body, request_id, service.models())

        return await respond(request, door, decode, _ERRORS)

    async def models(request: Request) -> Response:
        async def answer(_caller: Caller, visible: VisibleModels) -> Response:
            return Response(codec.model_list(visible.models()), media_type="application/json")

        return await guard(request, door, answer, _ERRORS)

    return [
        *(Route(f"{prefix}/chat/completions", chat, methods=["POST"]) for prefix in prefixes),
        *(Route(f"{prefix}/models", models, methods=["GET"]) for prefix in prefixes),
    ]


_ERRORS = codec.ArceeErrors()


OPERATIONS = (
    Operation(
        "POST",
        "/api/v1/chat/completions",
        "Chat completion",
        openai_answer.ChatCompletion,
        wire.ErrorBody,
        (400, 401, 402, 403, 413, 422, 429, 500, 503),
        wire.ChatRequest,
        openai_answer.ChatChunk,
        example=EXAMPLE_CHAT,
    ),
    Operation("GET", "/api/v1/models", "List models", wire.ModelList, wire.ErrorBody, (401, 403, 429, 503)),
)
"""The routes for the OpenAPI document."""
