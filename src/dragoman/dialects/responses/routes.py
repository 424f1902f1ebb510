"""The routes of the Responses API. Their paths collide with no others, so they answer under `/v1` too."""

from collections.abc import Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dragoman.core.context import Caller
from dragoman.core.services import QueueService, VisibleModels
from dragoman.dialects.http.codec import DecodeContext, EndpointCodec
from dragoman.dialects.http.context import HttpOptions, RouteContext, authenticated, json_response
from dragoman.dialects.http.generation import respond
from dragoman.dialects.http.jobs import job_routes
from dragoman.dialects.http.large_bodies import receive
from dragoman.dialects.http.operation import Operation
from dragoman.dialects.openai import wire as openai_wire
from dragoman.dialects.openai.codec import read_key
from dragoman.dialects.responses import codec, errors, wire
from dragoman.dialects.responses.background import BackgroundResponder
from dragoman.dialects.responses.preparation import Preparation
from dragoman.dialects.responses.stored import StoredResponses
from dragoman.dialects.responses.stored_routes import stored_operations, stored_routes

PREFIXES = ("/v1", "/openai/v1", "/openai")
"""The last one is Azure's."""


def routes(service: QueueService, options: HttpOptions) -> list[BaseRoute]:
    """Return the dialect's routes beside those of others."""
    return _routes_under(PREFIXES, service, options)


def vendor_routes(service: QueueService, options: HttpOptions) -> list[BaseRoute]:
    """Return the dialect's routes on a host of its own."""
    jobs = job_routes(RouteContext(service=service, read_key=read_key, options=options), _ERRORS)
    return [*jobs, *host_routes(service, options)]


def host_routes(service: QueueService, options: HttpOptions) -> list[BaseRoute]:
    """Return the routes under OpenAI's own paths alone."""
    return _routes_under(("/v1",), service, options)


def _routes_under(prefixes: Sequence[str], service: QueueService, options: HttpOptions) -> list[BaseRoute]:
    route = RouteContext(service=service, read_key=read_key, options=options)
    stored = StoredResponses(route)
    preparation = Preparation(service, stored)

    create = partial(respond, route=route, codec=_RESPONSE, prepare=preparation.prepare, background=BackgroundResponder)

    async def count_input_tokens(request: Request) -> Response:
        async def handler(caller: Caller, visible: VisibleModels) -> Response:
            context = DecodeContext(
                "",
                0,
                find_model=visible.find_model,
                reasoning_key=options.reasoning_key,
                fetches_images=options.fetches_images,
            )
            parts = await receive(request, route, caller, lambda body: codec.decode_prompt(body, context))
            async with service.counting_turn(caller):
                prompt, _ = await preparation.prompt(parts, caller)
                total = await visible.count_tokens(parts.sent.model, prompt)
            return json_response(wire.InputTokens(total))

        return await authenticated(request, route, handler, _ERRORS)

    return [
        each
        for prefix in prefixes
        for each in (
            Route(f"{prefix}/responses", create, methods=["POST"]),
            Route(f"{prefix}/responses/input_tokens", count_input_tokens, methods=["POST"]),
            *stored_routes(f"{prefix}/responses/{{response_id}}", route, stored, _ERRORS),
        )
    ]


_ERRORS = errors.ResponsesErrors()

_RESPONSE = EndpointCodec("responses.response", codec.decode_response, _ERRORS)

ENDPOINT_CODECS = (_RESPONSE,)

_ERROR_STATUSES = (400, 401, 403, 404, 413, 429, 500, 502, 503, 504)

_EXAMPLE: dict[str, object] = {
    "model": "{model}",
    "input": "What is the capital of France?",
    "max_output_tokens": 16,
}

OPERATIONS = tuple(
    operation
    for prefix in PREFIXES
    for operation in (
        Operation(
            method="POST",
            path=f"{prefix}/responses",
            summary="Response",
            response=wire.ResponseBody,
            error=openai_wire.ErrorBody,
            error_statuses=_ERROR_STATUSES,
            request=wire.ResponseRequest,
            chunk=wire.ResponseEvent,
            example=_EXAMPLE,
        ),
        Operation(
            method="POST",
            path=f"{prefix}/responses/input_tokens",
            summary="Count the tokens of an input",
            response=wire.InputTokens,
            error=openai_wire.ErrorBody,
            error_statuses=(400, 401, 403, 404, 413, 429, 500, 502, 503, 504),
            request=wire.PromptFields,
            example={"model": "{model}", "input": "What is the capital of France?"},
        ),
        *stored_operations(f"{prefix}/responses/{{response_id}}"),
    )
)
"""The routes in the OpenAPI document."""
