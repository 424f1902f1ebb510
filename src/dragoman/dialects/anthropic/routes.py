"""The routes of this dialect: on its vendor's own paths, beside those of others, and under a prefix of its own.

Paths that other dialects have too belong to this one if the request has an `anthropic-version`.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from dragoman.core.context import Caller
from dragoman.core.services import QueueService, VisibleModels
from dragoman.dialects.anthropic import codec, errors, wire
from dragoman.dialects.http.codec import DecodeContext, EndpointCodec
from dragoman.dialects.http.context import (
    HeaderRoutes,
    HttpOptions,
    RouteContext,
    authenticated,
    json_response,
    require_model,
)
from dragoman.dialects.http.errors import FailureContext
from dragoman.dialects.http.generation import respond
from dragoman.dialects.http.jobs import job_routes
from dragoman.dialects.http.large_bodies import receive
from dragoman.dialects.http.operation import EXAMPLE_CHAT, Operation
from dragoman.dialects.http.query import read_query

VENDOR_PREFIX = "/v1"
PREFIX = "/anthropic/v1"

_ID_HEADERS = ("request-id", "x-request-id")

_VERSION_HEADER = "anthropic-version"

_UNSERVED_PATHS = ("/complete", "/files", "/files/{rest:path}", "/skills", "/skills/{rest:path}")
"""Paths that other services have too."""

_ALL_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]

Handler = Callable[[Request], Awaitable[Response]]


class _ProbeRoute(Route):
    """A route of HEAD alone; with other methods there is nothing at its path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        return (match, child_scope) if match is Match.FULL else (Match.NONE, {})


def routes(service: QueueService, options: HttpOptions) -> list[BaseRoute]:
    """Return the dialect's routes beside those of others."""
    route = _route_context(service, options)
    return [
        *_message_routes(VENDOR_PREFIX, route),
        HeaderRoutes(_VERSION_HEADER, _other_routes(VENDOR_PREFIX, route)),
        *_message_routes(PREFIX, route),
        *_other_routes(PREFIX, route),
        _ProbeRoute("/", _probe, methods=["HEAD"]),
    ]


def vendor_routes(service: QueueService, options: HttpOptions) -> list[BaseRoute]:
    """Return the dialect's routes on a host of its own."""
    route = _route_context(service, options)
    return [
        *job_routes(route, _ERRORS),
        *_message_routes(VENDOR_PREFIX, route),
        *_other_routes(VENDOR_PREFIX, route),
        _ProbeRoute("/", _probe, methods=["HEAD"]),
    ]


def _route_context(service: QueueService, options: HttpOptions) -> RouteContext:
    return RouteContext(service=service, read_key=codec.read_key, options=options, id_headers=_ID_HEADERS)


def _message_routes(prefix: str, route: RouteContext) -> list[BaseRoute]:
    messages = partial(respond, route=route, codec=_MESSAGES)

    async def count_tokens(request: Request) -> Response:
        async def handler(caller: Caller, visible: VisibleModels) -> Response:
            served = {name: model for model in visible.models() for name in (model.id, *model.aliases)}
            context = DecodeContext("", 0, find_model=served.get, fetches_images=route.options.fetches_images)
            model, prompt = await receive(request, route, caller, lambda body: codec.decode_count(body, context))
            async with route.service.counting_turn(caller):
                return json_response(wire.InputTokenCount(await visible.count_tokens(model, prompt)))

        return await _lookup(request, route, handler)

    return [
        Route(f"{prefix}/messages", messages, methods=["POST"]),
        Route(f"{prefix}/messages/count_tokens", count_tokens, methods=["POST"]),
        Route(f"{prefix}/messages/batches", _unserved(route), methods=_ALL_METHODS),
        Route(f"{prefix}/messages/batches/{{rest:path}}", _unserved(route), methods=_ALL_METHODS),
    ]


def _other_routes(prefix: str, route: RouteContext) -> list[BaseRoute]:
    async def models(request: Request) -> Response:
        async def handler(_caller: Caller, visible: VisibleModels) -> Response:
            query = read_query(request.query_params, wire.ModelsQuery)
            return json_response(codec.model_page(codec.model_infos(visible.models()), query))

        return await _lookup(request, route, handler)

    async def model(request: Request) -> Response:
        async def handler(_caller: Caller, visible: VisibleModels) -> Response:
            name = request.path_params["model_id"]
            found = require_model(visible, name)
            return json_response(codec.model_info(found, name))

        return await _lookup(request, route, handler)

    return [
        Route(f"{prefix}/models", models, methods=["GET"]),
        Route(f"{prefix}/models/{{model_id:path}}", model, methods=["GET"]),
        *(Route(f"{prefix}{path}", _unserved(route), methods=_ALL_METHODS) for path in _UNSERVED_PATHS),
    ]


async def _lookup(
    request: Request, route: RouteContext, handler: Callable[[Caller, VisibleModels], Awaitable[Response]]
) -> Response:
    """Answer a request that generates nothing, with its id in the headers."""
    response = await authenticated(request, route, handler, _ERRORS)
    context = FailureContext.of(request.scope)
    assert context is not None, "authenticated() sets it"
    response.headers.update(dict.fromkeys(_ID_HEADERS, context.request_id))
    return response


def _unserved(route: RouteContext) -> Handler:
    """Return the endpoint of what this server does not have."""

    async def _not_served(request: Request) -> Response:
        async def handler(_caller: Caller, _visible: VisibleModels) -> Response:
            raise errors.NotServed

        return await _lookup(request, route, handler)

    return _not_served


async def _probe(_request: Request) -> Response:
    """Answer Claude Code's question at its start whether there is a server."""
    return Response()


_ERRORS = errors.AnthropicErrors()
_MESSAGES = EndpointCodec("anthropic.messages", codec.decode_messages, _ERRORS)

ENDPOINT_CODECS = (_MESSAGES,)

_LIST_STATUSES = (400, 401, 403, 429, errors.OVERLOADED)

_ERROR_STATUSES = (400, 401, 402, 403, 404, 413, 429, 500, 502, 504, errors.OVERLOADED)


def _operations(prefix: str) -> tuple[Operation, ...]:
    return (
        Operation(
            method="POST",
            path=f"{prefix}/messages",
            summary="Answer to a conversation",
            response=wire.MessageBody,
            error=wire.ErrorBody,
            error_statuses=_ERROR_STATUSES,
            request=wire.MessagesRequest,
            chunk=wire.StreamEventBody,
            ends_with_done=False,
            example=EXAMPLE_CHAT,
        ),
        Operation(
            method="POST",
            path=f"{prefix}/messages/count_tokens",
            summary="Count the tokens of a prompt",
            response=wire.InputTokenCount,
            error=wire.ErrorBody,
            error_statuses=_ERROR_STATUSES,
            request=wire.CountTokensRequest,
            example=EXAMPLE_CHAT,
        ),
    )


OPERATIONS = (
    *_operations(VENDOR_PREFIX),
    *_operations(PREFIX),
    Operation(
        method="GET",
        path=f"{PREFIX}/models",
        summary="List models; also under `/v1` for requests with an `anthropic-version`",
        response=wire.ModelPage,
        error=wire.ErrorBody,
        error_statuses=_LIST_STATUSES,
        query=wire.ModelsQuery,
    ),
    Operation(
        method="GET",
        path=f"{PREFIX}/models/{{model_id}}",
        summary="One model; also under `/v1` for requests with an `anthropic-version`",
        response=wire.ModelInfo,
        error=wire.ErrorBody,
        error_statuses=(*_LIST_STATUSES, 404),
    ),
)
"""The routes in the OpenAPI document."""
