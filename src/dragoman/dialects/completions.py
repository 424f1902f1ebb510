"""A request that a model answers: read, decoded, and run at once, once for its Idempotency-Key, or from the queue."""

import time
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from dragoman.core.errors import DragomanError
from dragoman.core.idempotency import IdempotentRequest
from dragoman.core.identifiers import new_request_id
from dragoman.core.service import Caller, EventStream
from dragoman.dialects.door import Door, error_response, first_fault, read_body
from dragoman.dialects.exchange import Exchange, Manner
from dragoman.dialects.form import Asked, Form, Occasion
from dragoman.dialects.idempotency import HEADER, Repeatable, Telling, attempt_of
from dragoman.dialects.queue import Queueing, QueueUse, enqueue, queued_response, queueing_of


def _as_it_is(response: Response) -> Response:
    return response


async def respond(
    request: Request,
    door: Door,
    form: Form,
    *,
    dress: Callable[[Response], Response] = _as_it_is,
    queue: QueueUse = "when preferred",
) -> Response:
    """Answer a request that `form` decodes; the parameters of its path are the arguments.

    `dress` adds to the answer what the dialect has to add.
    """
    request_id = new_request_id()
    headers = dict.fromkeys(door.id_headers, request_id)
    try:
        caller = door.caller(request, request_id)
        await door.service.reject_unknown_key(caller)
        try:
            asked = await _read(request, door, form, request_id)
            queueing = queueing_of(request.headers, queue)
            attempt = _attempt(request, door, asked.body, caller, queueing)
        except DragomanError as error:
            raise await first_fault(door.service, caller, error) from None
        if queueing is not None:
            job = await enqueue(asked, queueing, attempt, door, caller)
            return dress(queued_response(job, asked, queueing, door, caller))
        if attempt is not None:
            # An answer that is given again is not admitted, so this is where a key that is good no more is found out.
            await door.service.visible_to(caller)
    except DragomanError as error:
        return error_response(form.errors.reply(error), headers)
    except ClientDisconnect:
        return Response()  # nobody is there to read it
    manner = Manner(asked.call, form.errors, headers, door.options.keep_alive_seconds, request_id)
    return _run(door, caller, manner, attempt, dress)


async def _read(request: Request, door: Door, form: Form, request_id: str) -> Asked:
    body = await read_body(request, door)
    occasion = Occasion(request_id, int(time.time()), request.path_params, door.service.models)
    return Asked(form, occasion, body, form.decode(body, occasion))


def _attempt(
    request: Request, door: Door, body: bytes, caller: Caller, queueing: Queueing | None
) -> IdempotentRequest | None:
    if HEADER not in request.headers:
        return None
    if queueing is None:
        return attempt_of(request, body, caller, door.options.dialect, kept=door.options.answers is not None)
    # Whoever keeps jobs keeps which keys they came with, and says so if there are none to be kept.
    return attempt_of(request, body, caller, door.options.dialect, queueing.words, kept=True)


def _run(
    door: Door, caller: Caller, manner: Manner, attempt: IdempotentRequest | None, dress: Callable[[Response], Response]
) -> Response:
    """The response that runs the request now, or finds out how an equal one was answered."""
    call, errors, headers = manner.call, manner.errors, manner.headers

    async def begin() -> EventStream:
        try:
            return await door.service.generate(call.requests, caller, streamed=call.stream)
        except DragomanError as error:
            raise await first_fault(door.service, caller, error, call.requests[0].model) from None

    exchange = Exchange(begin, manner)
    answers = door.options.answers
    if attempt is None or answers is None:
        return dress(exchange)
    telling = Telling(
        call.stream,
        door.options.keep_alive_seconds,
        refusal=lambda error: error_response(errors.reply(error), headers),
        frame=errors.frame,
        headers=headers,
    )
    return Repeatable(dress(exchange), lambda: exchange.is_final, answers, attempt, telling)
