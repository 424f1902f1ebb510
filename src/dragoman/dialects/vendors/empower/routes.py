"""The routes of this dialect: with a prefix, as its own paths belong to another dialect; without on its own host."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dragoman.core.context import Caller
from dragoman.core.services import AdapterService, QueueService, VisibleModels
from dragoman.dialects.http.codec import EndpointCodec
from dragoman.dialects.http.context import (
    HttpOptions,
    RouteContext,
    authenticated,
    bearer_key,
    json_response,
)
from dragoman.dialects.http.generation import respond
from dragoman.dialects.http.jobs import job_routes
from dragoman.dialects.http.large_bodies import receive
from dragoman.dialects.http.operation import EXAMPLE_CHAT, Operation
from dragoman.dialects.openai import wire as openai_wire
from dragoman.dialects.vendors.empower import codec, errors, wire

_PREFIXES = ("/empower/api/v1", "/empower")


class _EmpowerService(AdapterService, QueueService, Protocol):
    """The services that this dialect uses."""


def routes(service: _EmpowerService, options: HttpOptions) -> list[BaseRoute]:
    """Return the dialect's routes beside those of others."""
    return _routes(service, options, _PREFIXES)


def vendor_routes(service: _EmpowerService, options: HttpOptions) -> list[BaseRoute]:
    """Return the same routes under the vendor's own paths, for a host that is mapped to this dialect."""
    return [
        *job_routes(RouteContext(service=service, read_key=bearer_key, options=options), _ERRORS),
        *_routes(service, options, ("/api/v1", "")),
    ]


def _routes(service: _EmpowerService, options: HttpOptions, prefixes: Sequence[str]) -> list[BaseRoute]:
    route = RouteContext(service=service, read_key=bearer_key, options=options)
    started = int(time.time())  # base models are served from the start, and no route adds one

    chat = partial(respond, route=route, codec=_CHAT)

    async def add_adapter(request: Request) -> Response:
        async def handler(caller: Caller, _visible: VisibleModels) -> Response:
            registration = await receive(request, route, caller, codec.decode_adapter)
            registered = await service.register_adapter(registration.spec, caller, token=registration.token)
            return json_response(codec.adapter_body(registered))

        return await authenticated(request, route, handler, _ERRORS)

    async def remove_adapter(request: Request) -> Response:
        async def handler(caller: Caller, _visible: VisibleModels) -> Response:
            return json_response(
                codec.adapter_body(await service.unregister_adapter(request.path_params["name"], caller))
            )

        return await authenticated(request, route, handler, _ERRORS)

    async def base_model(request: Request) -> Response:
        async def handler(_caller: Caller, visible: VisibleModels) -> Response:
            name = request.path_params["name"]
            return json_response(codec.base_model(name, visible.find_model(name), started))

        return await authenticated(request, route, handler, _ERRORS)

    async def models(request: Request) -> Response:
        async def handler(_caller: Caller, visible: VisibleModels) -> Response:
            return json_response(codec.model_list(visible.models(), started))

        return await authenticated(request, route, handler, _ERRORS)

    return [
        *(Route(f"{prefix}/chat/completions", chat, methods=["POST"]) for prefix in prefixes),
        *(Route(f"{prefix}/lora", add_adapter, methods=["POST"]) for prefix in prefixes),
        *(Route(f"{prefix}/lora/{{name:path}}", remove_adapter, methods=["DELETE"]) for prefix in prefixes),
        *(Route(f"{prefix}/base-model/{{name:path}}", base_model, methods=["GET"]) for prefix in prefixes),
        *(Route(f"{prefix}/models", models, methods=["GET"]) for prefix in prefixes),
    ]


_ERRORS = errors.EmpowerErrors()
_CHAT = EndpointCodec("empower.chat", codec.decode_chat, _ERRORS)

ENDPOINT_CODECS = (_CHAT,)


_EXAMPLE_ADAPTER: dict[str, object] = {"model_name": "pirate.gguf", "model_source": "LOCAL", "name": "pirate"}

_LOOKUP_STATUSES = (401, 403, 404, 429, 500, 503)

_ERROR_STATUSES = (400, 401, 402, 403, 404, 413, 429, 500, 502, 503, 504)

OPERATIONS = tuple(
    operation
    for prefix in _PREFIXES
    for operation in (
        Operation(
            method="POST",
            path=f"{prefix}/chat/completions",
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
            path=f"{prefix}/lora",
            summary="Register an adapter",
            response=wire.AdapterBody,
            error=wire.ErrorBody,
            error_statuses=(400, 401, 403, 413, 429, 500, 503),
            request=wire.AdapterRequest,
            example=_EXAMPLE_ADAPTER,
        ),
        Operation(
            method="DELETE",
            path=f"{prefix}/lora/{{name}}",
            summary="Remove an adapter",
            response=wire.AdapterBody,
            error=wire.ErrorBody,
            error_statuses=_LOOKUP_STATUSES,
        ),
        Operation(
            method="GET",
            path=f"{prefix}/base-model/{{name}}",
            summary="A base model",
            response=wire.BaseModelBody,
            error=wire.ErrorBody,
            error_statuses=_LOOKUP_STATUSES,
        ),
        Operation(
            method="GET",
            path=f"{prefix}/models",
            summary="List models",
            response=openai_wire.ModelList,
            error=wire.ErrorBody,
            error_statuses=(401, 403, 429, 503),
        ),
    )
)
"""The routes in the OpenAPI document."""
