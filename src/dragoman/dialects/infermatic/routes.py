"""The routes of this dialect. The route alone picks the dialect; the model may stand in the path."""

from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dragoman.core.service import GenerationService
from dragoman.dialects.exchange import ExchangeOptions, respond
from dragoman.dialects.infermatic import codec, wire

_PREFIXES = ("/v1", "", "/engines/{model:path}", "/openai/deployments/{model:path}")


def routes(service: GenerationService, options: ExchangeOptions) -> list[BaseRoute]:
    """All routes of the dialect, answered by `service`."""

    async def chat(request: Request) -> Response:
        decode = partial(codec.decode_chat, path_model=request.path_params.get("model"))
        return await respond(request, service, decode, _CHAT_ERRORS, options)

    async def text(request: Request) -> Response:
        decode = partial(codec.decode_text, path_model=request.path_params.get("model"))
        return await respond(request, service, decode, _TEXT_ERRORS, options)

    async def models(_request: Request) -> Response:
        cards = [wire.ModelCard(model.id) for model in service.models()]
        return _json(wire.ModelList(cards))

    async def model(request: Request) -> Response:
        wanted = request.path_params["model_id"]
        if any(wanted in (model.id, *model.aliases) for model in service.models()):
            return _json(wire.ModelCard(wanted))
        detail = wire.ErrorDetail(f"Model '{wanted}' not found", "not_found_error", "model", "404")
        return _json(wire.ErrorBody(detail), status=404)

    return [
        *(Route(f"{prefix}/chat/completions", chat, methods=["POST"]) for prefix in _PREFIXES),
        *(Route(f"{prefix}/completions", text, methods=["POST"]) for prefix in _PREFIXES),
        *(Route(f"{prefix}/models", models, methods=["GET"]) for prefix in ("/v1", "")),
        *(Route(f"{prefix}/models/{{model_id:path}}", model, methods=["GET"]) for prefix in ("/v1", "")),
    ]


_CHAT_ERRORS = codec.InfermaticErrors("/chat/completions", "messages")
_TEXT_ERRORS = codec.InfermaticErrors("/completions", "prompt")


def _json(body: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
