"""The three ways to answer a request: run it now, run it once for its Idempotency-Key, or queue it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
from starlette.responses import Response

from dragoman.core.context import Caller
from dragoman.core.errors import DragomanError
from dragoman.core.idempotency import IdempotencyStore, IdempotentRequest
from dragoman.core.jobs import Job, JobDraft
from dragoman.core.request import GenerationRequest
from dragoman.core.services import EventStream
from dragoman.dialects.http import sse
from dragoman.dialects.http.codec import ReceivedRequest, restore_request
from dragoman.dialects.http.context import RouteContext
from dragoman.dialects.http.errors import preceding_error
from dragoman.dialects.http.generation_response import GenerationResponse, ResponseOptions
from dragoman.dialects.http.idempotency import REPLAYED, IdempotentResponse
from dragoman.dialects.http.jobs import JOB_ID_HEADER, JOBS_PATH, QueuedJobBody
from dragoman.dialects.http.submission import RESPOND_ASYNC, SubmissionOptions


class PreparedRequests(NamedTuple):
    """What is generated, and the headers that say what was changed."""

    requests: Sequence[GenerationRequest]
    headers: Mapping[str, str] = {}


Prepare = Callable[[Sequence[GenerationRequest]], Awaitable[PreparedRequests]]
"""What a dialect does with the decoded requests before they are admitted. Raises core.errors."""


async def unchanged(requests: Sequence[GenerationRequest]) -> PreparedRequests:
    """Prepare nothing."""
    return PreparedRequests(requests)


class GenerationCall(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded request, and all it takes to answer it."""

    route: RouteContext
    caller: Caller
    received: ReceivedRequest
    prepare: Prepare
    headers: Mapping[str, str]
    """Headers of every answer."""

    async def preceding_error(self, error: DragomanError) -> DragomanError:
        """Return the error to report in place of one that admission raised."""
        model = self.received.decoded.requests[0].model
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
        self._call = call

    async def respond(self) -> Response:
        return self._generation_response(self._call.response_options())

    def _generation_response(self, options: ResponseOptions) -> GenerationResponse:
        call = self._call

        async def start() -> EventStream:
            decoded = call.received.decoded
            try:
                prepared = await call.prepare(decoded.requests)
                options.headers.update(prepared.headers)
                return await call.route.service.generate(prepared.requests, call.caller, streamed=decoded.stream)
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
        await self._call.route.service.visible_to(self._call.caller)
        options = self._call.response_options()
        return IdempotentResponse(self._generation_response(options), self._store, self._idempotent_request, options)


class QueuedResponder:
    """Queues the request."""

    def __init__(
        self, call: GenerationCall, submission: SubmissionOptions, idempotent_request: IdempotentRequest | None
    ) -> None:
        self._call = call
        self._submission = submission
        self._idempotent_request = idempotent_request

    async def respond(self) -> Response:
        decoded = self._call.received.decoded
        try:
            prepared = await self._call.prepare(decoded.requests)
            job = await self._submit(prepared.requests)
        except DragomanError as error:
            raise decoded.in_client_terms(await self._call.preceding_error(error)) from None
        return self._response(job, prepared.headers)

    async def _submit(self, requests: Sequence[GenerationRequest]) -> Job:
        draft = JobDraft(
            requests=tuple(requests),
            stored_request=self._call.received.to_stored(),
            priority=self._call.received.decoded.priority,
            client_waits=self._submission.client_waits,
            idempotent_request=self._idempotent_request,
            webhook=self._submission.webhook,
        )
        return await self._call.route.service.submit(draft, self._call.caller)

    def _response(self, job: Job, extra_headers: Mapping[str, str]) -> Response:
        route, caller, received = self._call.route, self._call.caller, self._call.received
        headers = dict.fromkeys(route.id_headers, job.stored_request.answer_id) | {JOB_ID_HEADER: job.id}
        if job.already_existed:
            headers |= [REPLAYED]
            # Its answer has the ids that it was given first.
            received = restore_request(job.stored_request, route.options.codecs)
        headers |= extra_headers
        if self._submission.client_waits:
            options = ResponseOptions(
                decoded=received.decoded,
                errors=received.codec.errors,
                headers={**headers, **received.decoded.headers},
                keep_alive_seconds=route.options.keep_alive_seconds,
                request_id=job.stored_request.answer_id,
            )
            return GenerationResponse(lambda: route.service.follow_job(job.id, caller), options, sse.NumberedFrames())
        url = f"{JOBS_PATH}/{job.id}"
        body = msgspec.json.encode(QueuedJobBody(job.id, url, job.eta, job.state))
        if not self._submission.prefers_async:
            return Response(body, 200, headers, "application/json")
        return Response(body, 202, headers | {"location": url, "preference-applied": RESPOND_ASYNC}, "application/json")
