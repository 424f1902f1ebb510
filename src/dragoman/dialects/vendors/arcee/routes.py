"""The routes of this dialect: under `/api/v1`, and on its own host also under `/v1`."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dragoman.core.context import Caller
from dragoman.core.services import QueueService, UsageReportingService, VisibleModels
from dragoman.dialects.http.codec import EndpointCodec
from dragoman.dialects.http.context import HttpOptions, RouteContext, authenticated, json_response
from dragoman.dialects.http.generation import respond
from dragoman.dialects.http.jobs import job_routes
from dragoman.dialects.http.operation import EXAMPLE_CHAT, Operation
from dragoman.dialects.http.query import read_query
from dragoman.dialects.openai import wire as openai_wire
from dragoman.dialects.vendors.arcee import codec, errors, usage, wire


class _ArceeService(UsageReportingService, QueueService, Protocol):
    """The services that this dialect uses."""


def routes(service: _ArceeService, options: HttpOptions) -> list[BaseRoute]:
    """Return the dialect's routes beside those of others."""
    return _routes_under(("/api/v1",), service, options)


def vendor_routes(service: _ArceeService, options: HttpOptions) -> list[BaseRoute]:
    """Return the dialect's routes on a host of its own."""
    jobs = job_routes(RouteContext(service=service, read_key=codec.read_key, options=options), _ERRORS)
    return [*jobs, *_routes_under(("/api/v1", "/v1"), service, options)]


def _routes_under(prefixes: Sequence[str], service: _ArceeService, options: HttpOptions) -> list[BaseRoute]:
    route = RouteContext(service=service, read_key=codec.read_key, options=options)

    chat = partial(respond, route=route, codec=_CHAT)

    async def models(request: Request) -> Response:
        async def handler(_caller: Caller, visible: VisibleModels) -> Response:
            return json_response(codec.model_list(visible.models()))

        return await authenticated(request, route, handler, _ERRORS)

    return [
        *(Route(f"{prefix}/chat/completions", chat, methods=["POST"]) for prefix in prefixes),
        *(Route(f"{prefix}/models", models, methods=["GET"]) for prefix in prefixes),
        *_usage_routes(prefixes, route, service),
    ]


def _usage_routes(prefixes: Sequence[str], route: RouteContext, service: UsageReportingService) -> list[BaseRoute]:
    async def credits(request: Request) -> Response:
        async def handler(caller: Caller, _visible: VisibleModels) -> Response:
            return json_response(usage.credits_body((await service.usage_of(caller)).balance))

        return await authenticated(request, route, handler, _ERRORS)

    async def stats(request: Request) -> Response:
        async def handler(caller: Caller, _visible: VisibleModels) -> Response:
            query = read_query(request.query_params, wire.StatsQuery)
            span = usage.usage_span(query, query.model)
            days = await (await service.usage_of(caller)).days(span, limit=query.limit, offset=query.offset)
            return json_response(usage.stats_body(days if usage.matches_this_server(query) else []))

        return await authenticated(request, route, handler, _ERRORS)

    async def summary(request: Request) -> Response:
        async def handler(caller: Caller, _visible: VisibleModels) -> Response:
            span = usage.usage_span(read_query(request.query_params, wire.SummaryQuery))
            return json_response(usage.summary_body(await (await service.usage_of(caller)).summary(span), span))

        return await authenticated(request, route, handler, _ERRORS)

    endpoints = {"credits": credits, "stats": stats, "summary": summary}
    return [
        Route(f"{prefix}/usage/{name}", endpoint, methods=["GET"])
        for prefix in prefixes
        for name, endpoint in endpoints.items()
    ]


_ERRORS = errors.ArceeErrors()
_CHAT = EndpointCodec("arcee.chat", codec.decode_chat, _ERRORS)

ENDPOINT_CODECS = (_CHAT,)

_USAGE_STATUSES = (401, 403, 404, 429, 503)


OPERATIONS = (
    Operation(
        method="POST",
        path="/api/v1/chat/completions",
        summary="Chat completion",
        response=openai_wire.ChatCompletion,
        error=wire.ErrorBody,
        error_statuses=(400, 401, 402, 403, 413, 422, 429, 500, 502, 503, 504),
        request=wire.ChatRequest,
        chunk=openai_wire.ChatChunk,
        example=EXAMPLE_CHAT,
    ),
    Operation(
        method="GET",
        path="/api/v1/models",
        summary="List models",
        response=wire.ModelList,
        error=wire.ErrorBody,
        error_statuses=(401, 403, 429, 503),
    ),
    Operation(
        method="GET",
        path="/api/v1/usage/credits",
        summary="Balance",
        response=wire.CreditsBody,
        error=wire.ErrorBody,
        error_statuses=_USAGE_STATUSES,
    ),
    Operation(
        method="GET",
        path="/api/v1/usage/stats",
        summary="Usage by day and model",
        response=list[wire.StatsRow],
        error=wire.ErrorBody,
        error_statuses=(*_USAGE_STATUSES, 422),
        query=wire.StatsQuery,
    ),
    Operation(
        method="GET",
        path="/api/v1/usage/summary",
        summary="Usage altogether",
        response=wire.SummaryBody,
        error=wire.ErrorBody,
        error_statuses=(*_USAGE_STATUSES, 422),
        query=wire.SummaryQuery,
    ),
)
"""The routes in the OpenAPI document."""
