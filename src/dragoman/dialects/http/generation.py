"""A request that a model answers: received, decoded, and answered in one of three ways."""

import time

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from dragoman.core.errors import DragomanError
from dragoman.core.identifiers import new_request_id
from dragoman.dialects.http.codec import DecodeContext, EndpointCodec, ReceivedRequest
from dragoman.dialects.http.context import RouteContext, read_body
from dragoman.dialects.http.errors import error_response, preceding_error
from dragoman.dialects.http.idempotency import HEADER, read_idempotent_request, required_store
from dragoman.dialects.http.responders import (
    DirectResponder,
    GenerationCall,
    IdempotentResponder,
    Prepare,
    QueuedResponder,
    Responder,
    unchanged,
)
from dragoman.dialects.http.submission import QueueMode, submission_options


async def respond(
    request: Request,
    route: RouteContext,
    codec: EndpointCodec,
    *,
    prepare: Prepare = unchanged,
    queue: QueueMode = "on_request",
) -> Response:
    """Answer a request that `codec` decodes, with the parameters of its path as arguments.

    `prepare` may change what is generated and add headers to the answer.
    """
    request_id = new_request_id()
    headers = dict.fromkeys(route.id_headers, request_id)
    try:
        caller = route.caller(request, request_id)
        await route.service.reject_unknown_key(caller)
        try:
            received = await _receive(request, route, codec, request_id)
            call = GenerationCall(route=route, caller=caller, received=received, prepare=prepare, headers=headers)
            responder = _choose_responder(request, call, queue)
        except DragomanError as error:
            raise await preceding_error(route.service, caller, error) from None
        return await responder.respond()
    except DragomanError as error:
        return error_response(codec.errors.render(error), headers)
    except ClientDisconnect:
        return Response()  # no client is left to read it


async def _receive(request: Request, route: RouteContext, codec: EndpointCodec, request_id: str) -> ReceivedRequest:
    body = await read_body(request, route)
    context = DecodeContext(request_id, int(time.time()), request.path_params, route.service.models)
    return ReceivedRequest(codec, context, body, codec.decode(body, context))


def _choose_responder(request: Request, call: GenerationCall, queue: QueueMode) -> Responder:
    """Choose by the request's headers. Raises BadRequest."""
    body, caller, options = call.received.body, call.caller, call.route.options
    submission = submission_options(request.headers, queue)
    if submission is not None:
        # The queue stores keys with its jobs, and rejects them itself if it stores none.
        parts = submission.fingerprint_parts
        return QueuedResponder(call, submission, read_idempotent_request(request, body, caller, options.dialect, parts))
    if HEADER not in request.headers:
        return DirectResponder(call)
    store = required_store(options.idempotency_store)
    idempotent_request = read_idempotent_request(request, body, caller, options.dialect)
    assert idempotent_request is not None, "the header is there"
    return IdempotentResponder(call, store, idempotent_request)
