"""A request that a model answers: read, decoded, and run at once, once for its Idempotency-Key, or from the queue."""

import time
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from dragoman.core.errors import DragomanError
from dragoman.core.idempotency import IdempotentRequest
from dragoman.core.identifiers import new_request_id
from dragoman.core.service import Caller, EventStream
from dragoman.dialects.http.codec import DecodeContext, EndpointCodec, ReceivedRequest
from dragoman.dialects.http.context import RouteContext, read_body
from dragoman.dialects.http.errors import error_response, preceding_error
from dragoman.dialects.http.generation_response import GenerationResponse, ResponseOptions
from dragoman.dialects.http.idempotency import (
    HEADER,
    IdempotentResponse,
    IdempotentResponseOptions,
    read_idempotent_request,
)
from dragoman.dialects.http.queueing import QueueMode, SubmissionOptions, enqueue, queued_response, submission_options


def _undecorated(response: Response) -> Response:
    return response


async def respond(
    request: Request,
    route: RouteContext,
    codec: EndpointCodec,
    *,
    decorate: Callable[[Response], Response] = _undecorated,
    queue: QueueMode = "when preferred",
) -> Response:
    """Answer a request that `form` decodes; the parameters of its path are the arguments.

    `dress` adds to the answer what the dialect has to add.
    """
    request_id = new_request_id()
    headers = dict.fromkeys(route.id_headers, request_id)
    try:
        caller = route.caller(request, request_id)
        await route.service.reject_unknown_key(caller)
        try:
            received = await _receive(request, route, codec, request_id)
            submission = submission_options(request.headers, queue)
            idempotent_request = _idempotent_request(request, route, received.body, caller, submission)
        except DragomanError as error:
            raise await preceding_error(route.service, caller, error) from None
        if submission is not None:
            job = await enqueue(received, submission, idempotent_request, route, caller)
            return decorate(queued_response(job, received, submission, route, caller))
        if idempotent_request is not None:
            # An answer that is given again is not admitted, so this is where a key that is good no more is found out.
            await route.service.visible_to(caller)
    except DragomanError as error:
        return error_response(codec.errors.render(error), headers)
    except ClientDisconnect:
        return Response()  # nobody is there to read it
    response_options = ResponseOptions(
        received.decoded, codec.errors, headers, route.options.keep_alive_seconds, request_id
    )
    return _direct_response(route, caller, response_options, idempotent_request, decorate)


async def _receive(request: Request, route: RouteContext, codec: EndpointCodec, request_id: str) -> ReceivedRequest:
    body = await read_body(request, route)
    context = DecodeContext(request_id, int(time.time()), request.path_params, route.service.models)
    return ReceivedRequest(codec, context, body, codec.decode(body, context))


def _idempotent_request(
    request: Request, route: RouteContext, body: bytes, caller: Caller, submission: SubmissionOptions | None
) -> IdempotentRequest | None:
    if HEADER not in request.headers:
        return None
    if submission is None:
        return read_idempotent_request(
            request, body, caller, route.options.dialect, is_supported=route.options.idempotency_store is not None
        )
    # Whoever keeps jobs keeps which keys they came with, and says so if there are none to be kept.
    return read_idempotent_request(
        request, body, caller, route.options.dialect, submission.fingerprint_parts, is_supported=True
    )


def _direct_response(
    route: RouteContext,
    caller: Caller,
    response_options: ResponseOptions,
    idempotent_request: IdempotentRequest | None,
    decorate: Callable[[Response], Response],
) -> Response:
    """The response that runs the request now, or finds out how an equal one was answered."""
    decoded, errors, headers = response_options.decoded, response_options.errors, response_options.headers

    async def begin() -> EventStream:
        try:
            return await route.service.generate(decoded.requests, caller, streamed=decoded.stream)
        except DragomanError as error:
            raise await preceding_error(route.service, caller, error, decoded.requests[0].model) from None

    generation_response = GenerationResponse(begin, response_options)
    store = route.options.idempotency_store
    if idempotent_request is None or store is None:
        return decorate(generation_response)
    idempotent_options = IdempotentResponseOptions(
        decoded.stream,
        route.options.keep_alive_seconds,
        error_response=lambda error: error_response(errors.render(error), headers),
        error_frame=errors.render_frame,
        headers=headers,
    )
    return IdempotentResponse(
        decorate(generation_response),
        lambda: generation_response.is_final,
        store,
        idempotent_request,
        idempotent_options,
    )
