"""The routes of this dialect. Every prompt is made to leave room for its answer."""

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dragoman.core.context import Caller
from dragoman.core.services import QueueService, VisibleModels
from dragoman.dialects.http.codec import DecodedRequest, EndpointCodec
from dragoman.dialects.http.context import HttpOptions, RouteContext, authenticated, json_response, require_model
from dragoman.dialects.http.generation import PreparedRequests, respond
from dragoman.dialects.http.jobs import job_routes
from dragoman.dialects.http.operation import Operation
from dragoman.dialects.http.query import read_query
from dragoman.dialects.http.truncation import ContextWindowFitter
from dragoman.dialects.vendors.scale import codec, errors, wire

TRIMMED_HEADER = "x-dragoman-trimmed-messages"
"""The number of messages that were dropped; absent if none."""

_Endpoint = Callable[[Request], Awaitable[Response]]


def routes(service: QueueService, options: HttpOptions) -> list[BaseRoute]:
    """Return the dialect's routes beside those of others."""
    return [*_completion_routes(service, options), *_list_routes(_route_context(service, options))]


def vendor_routes(service: QueueService, options: HttpOptions) -> list[BaseRoute]:
    """Return the dialect's routes on a host of its own."""
    return [*job_routes(_route_context(service, options), _ERRORS), *routes(service, options)]


def _route_context(service: QueueService, options: HttpOptions) -> RouteContext:
    return RouteContext(service=service, read_key=codec.read_key, options=options, read_account=codec.read_account)


def _completion_routes(service: QueueService, options: HttpOptions) -> list[BaseRoute]:
    route = _route_context(service, options)

    async def fit(decoded: DecodedRequest, caller: Caller) -> PreparedRequests:
        models: VisibleModels = service
        if service.find_model(decoded.requests[0].model) is None:
            models = await service.visible_to(caller)  # It may be an adapter of the caller's own.
        fitted = await ContextWindowFitter(models).fit(decoded.requests)
        headers = {TRIMMED_HEADER: str(fitted.dropped_messages)} if fitted.dropped_messages else {}
        return PreparedRequests(fitted.requests, headers)

    def endpoint_for(codec: EndpointCodec) -> _Endpoint:
        return partial(respond, route=route, codec=codec, prepare=fit)

    return [
        *_exclusive_route("POST", "/v4/models/{deployment:path}/chat-completions", endpoint_for(_DEPLOYMENT_CHAT)),
        *_exclusive_route("POST", "/v4/models/{deployment:path}/completions", endpoint_for(_DEPLOYMENT_TEXT)),
        Route("/v4/chat-completions", endpoint_for(_CHAT), methods=["POST"]),
        Route("/v4/completions", endpoint_for(_TEXT), methods=["POST"]),
    ]


def _list_routes(route: RouteContext) -> list[BaseRoute]:

    async def models(request: Request) -> Response:
        async def handler(_caller: Caller, visible: VisibleModels) -> Response:
            query = read_query(request.query_params, wire.ListQuery)
            return json_response(codec.page(codec.model_items(visible.models(), query), query))

        return await authenticated(request, route, handler, _LOOKUP_ERRORS)

    async def model(request: Request) -> Response:
        name = request.path_params["model"]

        async def handler(_caller: Caller, visible: VisibleModels) -> Response:
            found = require_model(visible, name)
            return json_response(codec.model_item(found, name))

        return await authenticated(request, route, handler, _LOOKUP_ERRORS)

    async def deployments(request: Request) -> Response:
        async def handler(_caller: Caller, visible: VisibleModels) -> Response:
            query = read_query(request.query_params, wire.ListQuery)
            return json_response(codec.page(codec.deployment_items(visible.models()), query))

        return await authenticated(request, route, handler, _LOOKUP_ERRORS)

    return [
        Route("/v4/models", models, methods=["GET"]),
        Route("/v4/model-deployments", deployments, methods=["GET"]),
        Route("/v4/models/{model:path}", model, methods=["GET"]),
        # Creating, changing and deleting models, embeddings and the like are not served.
        Route("/v4/models", _not_served, methods=_WRITE_METHODS),
        Route("/v4/models/{rest:path}", _not_served, methods=_WRITE_METHODS),
    ]


_ERRORS = errors.ScaleErrors()
_DEPLOYMENT_CHAT = EndpointCodec("scale.deployment_chat", codec.decode_deployment_chat, _ERRORS)
_DEPLOYMENT_TEXT = EndpointCodec("scale.deployment_text", codec.decode_deployment_text, _ERRORS)
_CHAT = EndpointCodec("scale.chat", codec.decode_chat, _ERRORS)
_TEXT = EndpointCodec("scale.text", codec.decode_text, _ERRORS)

ENDPOINT_CODECS = (_DEPLOYMENT_CHAT, _DEPLOYMENT_TEXT, _CHAT, _TEXT)

_LOOKUP_ERRORS = errors.ScaleErrors(noun="Model")

_WRITE_METHODS = ["POST", "PUT", "PATCH", "DELETE"]


def _exclusive_route(method: str, path: str, endpoint: _Endpoint) -> list[BaseRoute]:
    """Return a route that keeps its path from the greedy ones after it, for every method."""

    async def not_allowed(_request: Request) -> Response:
        raise HTTPException(405, headers={"allow": method})

    others = [other for other in ("GET", *_WRITE_METHODS) if other != method]
    return [Route(path, endpoint, methods=[method]), Route(path, not_allowed, methods=others)]


async def _not_served(_request: Request) -> Response:
    raise HTTPException(404)


_LIST_STATUSES = (401, 403, 422, 429, 503)

_ERROR_STATUSES = (400, 401, 402, 403, 404, 413, 422, 429, 500, 502, 503, 504)

OPERATIONS = (
    Operation(
        method="POST",
        path="/v4/models/{deployment}/chat-completions",
        summary="Chat completion of a deployment",
        response=wire.DeploymentCompletion,
        error=wire.ErrorBody,
        error_statuses=_ERROR_STATUSES,
        request=wire.DeploymentChatRequest,
        chunk=wire.DeploymentCompletion,
        ends_with_done=False,
        example={"chat_history": [], "prompt": "What is the capital of France?", "max_tokens": 16},
    ),
    Operation(
        method="POST",
        path="/v4/models/{deployment}/completions",
        summary="Text completion of a deployment",
        response=wire.DeploymentCompletion,
        error=wire.ErrorBody,
        error_statuses=_ERROR_STATUSES,
        request=wire.DeploymentTextRequest,
        chunk=wire.DeploymentCompletion,
        ends_with_done=False,
        example={"prompt": "Once upon a time", "max_tokens": 16},
    ),
    Operation(
        method="POST",
        path="/v4/chat-completions",
        summary="Chat completion",
        response=wire.ChatCompletionBody,
        error=wire.ErrorBody,
        error_statuses=_ERROR_STATUSES,
        request=wire.ChatRequest,
        chunk=wire.ChatCompletionBody,
        ends_with_done=False,
        example={"model": "{model}", "messages": [{"role": "user", "content": "What is the capital of France?"}]},
    ),
    Operation(
        method="POST",
        path="/v4/completions",
        summary="Text completion",
        response=wire.TextCompletionBody,
        error=wire.ErrorBody,
        error_statuses=_ERROR_STATUSES,
        request=wire.TextRequest,
        chunk=wire.TextCompletionBody,
        ends_with_done=False,
        example={"model": "{model}", "prompt": "Once upon a time"},
    ),
    Operation(
        method="GET",
        path="/v4/models",
        summary="List models",
        response=wire.Page[wire.ModelItem],
        error=wire.ErrorBody,
        error_statuses=_LIST_STATUSES,
        query=wire.ListQuery,
    ),
    Operation(
        method="GET",
        path="/v4/model-deployments",
        summary="List deployments",
        response=wire.Page[wire.DeploymentItem],
        error=wire.ErrorBody,
        error_statuses=_LIST_STATUSES,
        query=wire.ListQuery,
    ),
    Operation(
        method="GET",
        path="/v4/models/{model}",
        summary="One model",
        response=wire.ModelItem,
        error=wire.ErrorBody,
        error_statuses=(401, 403, 404, 429, 503),
    ),
)
"""The routes in the OpenAPI document."""
