"""A request that a model answers: received, decoded, and answered in one of three ways.

It is run now, run once for its Idempotency-Key, or queued, as its headers ask.
"""

import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from dragoman.core.context import Caller, new_request_id
from dragoman.core.errors import BadRequest, DragomanError, ModelNotFound
from dragoman.core.idempotency import IdempotencyStore, IdempotentRequest
from dragoman.core.jobs import Job, JobDraft
from dragoman.core.services import EventStream
from dragoman.core.tasks import Task
from dragoman.dialects.http.codec import DecodeContext, DecodedRequest, EndpointCodec, ReceivedRequest
from dragoman.dialects.http.context import RouteContext, read_body, sent_headers
from dragoman.dialects.http.errors import FAILURE_CONTEXT, FailureContext, error_response, preceding_error
from dragoman.dialects.http.generation_response import GenerationResponse, NumberedFrames, ResponseOptions
from dragoman.dialects.http.idempotency import (
    HEADER,
    REPLAYED,
    IdempotentResponse,
    read_idempotent_request,
    required_store,
)
from dragoman.dialects.http.jobs import JOB_ID_HEADER, JOBS_PATH, QueuedJobBody
from dragoman.dialects.http.kept_bodies import KeptResponse
from dragoman.dialects.http.large_bodies import LARGE_BODY_BYTES, decode_large, restore

WEBHOOK_HEADER = "x-dragoman-webhook"

RESPOND_ASYNC = "respond-async"
"""RFC 7240, section 4.1."""

_RESPONDER_HEADERS = frozenset({b"prefer", WEBHOOK_HEADER.encode(), HEADER.encode()})
"""Without them, a request is run now unless its route or its body asks for the queue."""

_MAX_WEBHOOK_LENGTH = 2000

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"?')
"""A quoted text. Without its end it goes to that of the header: looking for one at each mark would take for ever."""

QueueMode = Literal["on_request", "wait", "background"]
"""Which requests a route queues. on_request: those that prefer it; wait: all, and the client waits for the answer
unless it prefers not to; background: all, and no client waits."""


class SubmissionOptions(NamedTuple):
    """How a request is queued."""

    client_waits: bool
    """Whether the client waits for the answer."""
    prefers_async: bool
    """Whether the client asked not to wait."""
    webhook: str | None
    """The URL to notify of the end."""

    @property
    def fingerprint_parts(self) -> tuple[str, ...]:
        """What distinguishes it from a request with the same body and other options."""
        return (RESPOND_ASYNC if self.prefers_async else "", self.webhook or "")


def submission_options(headers: Headers, mode: QueueMode) -> SubmissionOptions | None:
    """Return how a request to such a route is queued; None: not at all. Raises BadRequest."""
    preferred = prefers_async(headers)
    webhook = _webhook(headers)
    if mode == "on_request" and not preferred:
        if webhook is not None:
            raise BadRequest(f"{WEBHOOK_HEADER} is called for queued requests only: send Prefer: {RESPOND_ASYNC} too")
        return None
    return SubmissionOptions(
        client_waits=mode == "wait" and not preferred,
        prefers_async=preferred and mode != "background",
        webhook=webhook,
    )


def prefers_async(headers: Headers) -> bool:
    """Whether `Prefer: respond-async` is among the preferences (RFC 7240)."""
    preferences = _QUOTED.sub('""', ",".join(headers.getlist("prefer"))).split(",")
    # A preference with a value is another one, except for an empty value; unknown ones are ignored.
    return any(
        re.fullmatch(rf'{RESPOND_ASYNC}(\s*=\s*("")?)?', preference.partition(";")[0].strip().lower())
        for preference in preferences
    )


def _webhook(headers: Headers) -> str | None:
    """Return the URL of the webhook. Raises BadRequest unless it is that of a web server."""
    sent = headers.getlist(WEBHOOK_HEADER)
    if not sent:
        return None
    if len(sent) > 1 or not _is_http_url(sent[0]):
        raise BadRequest(
            f"{WEBHOOK_HEADER} must be one URL that begins with https:// or http://, "
            f"of at most {_MAX_WEBHOOK_LENGTH} characters"
        )
    return sent[0]


def _is_http_url(text: str) -> bool:
    if len(text) > _MAX_WEBHOOK_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # an invalid port or IPv6 address
        return False


def _tasks(decoded: DecodedRequest) -> Sequence[Task]:
    """Return what the request asks for, as the gateway takes it."""
    return decoded.requests if decoded.embedding is None else (decoded.embedding,)


def as_they_come(events: EventStream) -> EventStream:
    """Deliver the events unchanged."""
    return events


class PreparedRequests(NamedTuple):
    """What is generated, and the headers that say what was changed."""

    requests: Sequence[Task]
    headers: Mapping[str, str] = {}
    deliver: Callable[[EventStream], EventStream] = as_they_come
    """What the dialect does with the events of a request that is run now, before they are rendered."""


Prepare = Callable[[DecodedRequest, Caller], Awaitable[PreparedRequests]]
"""What a dialect does with a decoded request before it is admitted. Raises core.errors."""


class GenerationCall(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded request, and all it takes to answer it."""

    route: RouteContext
    caller: Caller
    received: ReceivedRequest
    prepare: Prepare | None
    headers: Mapping[str, str]
    """Headers of every answer."""

    async def preceding_error(self, error: DragomanError) -> DragomanError:
        """Return the error to report in place of one that admission raised."""
        model = _tasks(self.received.decoded)[0].model
        return await preceding_error(self.route.service, self.caller, error, model)

    def response_options(self) -> ResponseOptions:
        """Return how the answer is rendered."""
        return ResponseOptions(
            decoded=self.received.decoded,
            errors=self.received.codec.errors,
            headers=dict(self.headers),
            keep_alive_seconds=self.route.options.keep_alive_seconds,
            request_id=self.caller.request_id,
        )


class Responder(Protocol):
    """One way to answer a request."""

    async def respond(self) -> Response:
        """Return the response. Raises core.errors."""
        ...


class DirectResponder:
    """Runs the request now."""

    def __init__(self, call: GenerationCall) -> None:
        self.call = call

    async def respond(self) -> Response:
        return self._generation_response(self.call.response_options())

    def _generation_response(self, options: ResponseOptions) -> GenerationResponse:
        call = self.call

        async def start() -> EventStream:
            decoded, service = call.received.decoded, call.route.service
            requests = _tasks(decoded)
            try:
                async with service.preparation_turn(requests, call.caller):
                    if call.prepare is None:
                        return await service.generate(requests, call.caller, streamed=decoded.stream)
                    prepared = await call.prepare(decoded, call.caller)
                    options.headers.update(prepared.headers)
                    return prepared.deliver(
                        await service.generate(prepared.requests, call.caller, streamed=decoded.stream)
                    )
            except DragomanError as error:
                raise await call.preceding_error(error) from None

        return GenerationResponse(start, options)


class IdempotentResponder(DirectResponder):
    """Runs the request now, unless an equal one with its Idempotency-Key was run before."""

    def __init__(self, call: GenerationCall, store: IdempotencyStore, idempotent_request: IdempotentRequest) -> None:
        super().__init__(call)
        self._store = store
        self._idempotent_request = idempotent_request

    async def respond(self) -> Response:
        # A replayed response is not admitted, so this is where a key that is no longer valid is rejected.
        await self.call.route.service.visible_to(self.call.caller)
        options = self.call.response_options()
        return IdempotentResponse(self._generation_response(options), self._store, self._idempotent_request, options)


class QueuedResponder:
    """Queues the request."""

    def __init__(
        self, call: GenerationCall, submission: SubmissionOptions, idempotent_request: IdempotentRequest | None
    ) -> None:
        self.call = call
        self._submission = submission
        self._idempotent_request = idempotent_request

    @property
    def _may_repeat(self) -> bool:
        """Whether an equal request finds the same job."""
        return self._idempotent_request is not None

    async def respond(self) -> Response:
        decoded, prepare = self.call.received.decoded, self.call.prepare
        prepared = PreparedRequests(_tasks(decoded))
        try:
            async with self.call.route.service.preparation_turn(prepared.requests, self.call.caller):
                if prepare is not None:
                    prepared = await prepare(decoded, self.call.caller)
                job = await self._submit(prepared.requests)
        except DragomanError as error:
            raise decoded.in_client_terms(await self.call.preceding_error(error)) from None
        return await self._response(job, prepared.headers)

    async def _submit(self, requests: Sequence[Task]) -> Job:
        draft = JobDraft(
            requests=tuple(requests),
            stored_request=self.call.received.to_stored(),
            priority=self.call.received.decoded.priority,
            client_waits=self._submission.client_waits,
            idempotent_request=self._idempotent_request,
            webhook=self._submission.webhook,
        )
        return await self.call.route.service.submit(draft, self.call.caller)

    async def _response(self, job: Job, extra_headers: Mapping[str, str]) -> Response:
        route, caller, received = self.call.route, self.call.caller, self.call.received
        headers = dict.fromkeys(route.id_headers, job.stored_request.answer_id) | {JOB_ID_HEADER: job.id}
        if job.already_existed:
            headers |= [REPLAYED]
            # Its answer has the ids that it was given first.
            received = await restore(job.stored_request, route, caller)
        return self.response_for(job, received, {**headers, **extra_headers})

    def response_for(self, job: Job, received: ReceivedRequest, headers: dict[str, str]) -> Response:
        """Return the response about the job, or with its answer."""
        route, caller = self.call.route, self.call.caller
        if self._submission.client_waits:
            options = ResponseOptions(
                decoded=received.decoded,
                errors=received.codec.errors,
                headers={**headers, **received.decoded.headers},
                keep_alive_seconds=route.options.keep_alive_seconds,
                request_id=job.stored_request.answer_id,
                may_repeat=self._may_repeat,
            )
            return GenerationResponse(lambda: route.service.follow_job(job.id, caller), options, NumberedFrames())
        url = f"{route.options.root_path}{JOBS_PATH}/{job.id}"
        body = msgspec.json.encode(QueuedJobBody(job.id, url, job.eta, job.state))
        if not self._submission.prefers_async:
            return Response(body, 200, headers, "application/json")
        return Response(body, 202, headers | {"location": url, "preference-applied": RESPOND_ASYNC}, "application/json")


async def respond(
    request: Request,
    route: RouteContext,
    codec: EndpointCodec,
    *,
    prepare: Prepare | None = None,
    queue: QueueMode = "on_request",
    background: "type[QueuedResponder] | None" = None,
) -> Response:
    """Answer a request that `codec` decodes, with the parameters of its path as arguments.

    `prepare` may change what is generated and add headers to the answer. `background` answers requests whose body asks
    for the queue.
    """
    request_id = new_request_id()
    headers = dict.fromkeys(route.id_headers, request_id)
    request.scope[FAILURE_CONTEXT] = FailureContext(codec.errors, request_id, headers)
    try:
        caller = route.caller(request, request_id)
        if route.service.needs_key:
            await route.service.reject_unknown_key(caller)
        try:
            received = await _receive(request, route, codec, caller)
            call = GenerationCall(route=route, caller=caller, received=received, prepare=prepare, headers=headers)
            responder = _choose_responder(request, call, queue, background)
        except DragomanError as error:
            raise await preceding_error(route.service, caller, error) from None
        response = await responder.respond()
        if (store := route.options.body_store) is not None and isinstance(responder, DirectResponder):
            return KeptResponse(response, store, request_id, received.body)
        return response
    except DragomanError as error:
        return error_response(codec.errors.render(error), headers)
    except ClientDisconnect:
        return Response()  # no client is left to read it


async def _receive(request: Request, route: RouteContext, codec: EndpointCodec, caller: Caller) -> ReceivedRequest:
    body = await read_body(request, route)
    context = DecodeContext(
        caller.request_id,
        int(time.time()),
        request.path_params,
        route.service.find_model,
        reasoning_key=route.options.reasoning_key,
        stores_responses=route.options.response_store is not None,
        fetches_images=route.options.fetches_images,
    )
    if len(body) > LARGE_BODY_BYTES:
        return ReceivedRequest(codec, context, body, await decode_large(body, route, caller, codec, context))
    try:
        return ReceivedRequest(codec, context, body, codec.decode(body, context))
    except ModelNotFound:
        # It may be an adapter of the caller's own, which only an authenticated caller sees.
        visible, known = await route.service.visible_to(caller), route.service.models()
        if all(model in known for model in visible.models()):
            raise
        context = context._replace(find_model=visible.find_model)
        return ReceivedRequest(codec, context, body, codec.decode(body, context))


def _choose_responder(
    request: Request, call: GenerationCall, queue: QueueMode, background: type[QueuedResponder] | None
) -> Responder:
    """Choose by the body and the request's headers. Raises BadRequest."""
    body, caller, options = call.received.body, call.caller, call.route.options
    headers = sent_headers(request.scope)
    in_background = background is not None and call.received.decoded.in_background
    if queue == "on_request" and not in_background and not headers.has_any(_RESPONDER_HEADERS):
        return DirectResponder(call)
    submission = submission_options(headers, "background" if in_background else queue)
    if submission is not None:
        # The queue stores keys with its jobs, and rejects them itself if it stores none.
        parts = submission.fingerprint_parts
        kind = background if in_background and background is not None else QueuedResponder
        return kind(call, submission, read_idempotent_request(request, body, caller, options.dialect, parts))
    if HEADER not in headers:
        return DirectResponder(call)
    store = required_store(options.idempotency_store)
    idempotent_request = read_idempotent_request(request, body, caller, options.dialect)
    assert idempotent_request is not None, "the header is there"
    return IdempotentResponder(call, store, idempotent_request)
