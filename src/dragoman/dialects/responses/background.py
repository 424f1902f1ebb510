"""Responses that the queue generates: announced at once, and streamed from any event on."""

from collections.abc import AsyncIterator

import msgspec
from starlette.responses import Response
from starlette.types import Send

from dragoman.core.context import Caller
from dragoman.core.errors import DragomanError
from dragoman.core.events import Event, PromptTokens, Usage
from dragoman.core.jobs import Job
from dragoman.core.services import EventStream
from dragoman.dialects.http import sse
from dragoman.dialects.http.codec import ReceivedRequest
from dragoman.dialects.http.context import RouteContext
from dragoman.dialects.http.generation import QueuedResponder
from dragoman.dialects.http.generation_response import Frames, GenerationResponse, ResponseOptions, is_final_error
from dragoman.dialects.responses.codec import DecodedResponse
from dragoman.dialects.responses.watched_events import WatchedEvents

ANNOUNCEMENT = PromptTokens(0, [])
"""Lets the builder announce a response before the engine has begun: it adds nothing else."""


class EventsAfter(Frames):
    """Skips the events that the reader has: those up to a sequence number."""

    def __init__(self, starting_after: int) -> None:
        """`starting_after` is the sequence number of the last event that the reader has; -1: none."""
        self._starting_after = starting_after
        self._next_number = 0

    def encode(self, event: sse.SseEvent) -> bytes:
        if event is sse.DONE:
            return sse.frame(event)
        self._next_number += 1
        return sse.frame(event) if self._next_number > self._starting_after + 1 else b""


class BackgroundEvents(WatchedEvents):
    """Implements core.services.EventStream: a job's events, with the time of its end before its usage.

    That time is in the response, and it must be the same however often the events are read.
    """

    def __init__(
        self, events: EventStream, route: RouteContext, job_id: str, caller: Caller, decoded: DecodedResponse
    ) -> None:
        super().__init__(events)
        self._route = route
        self._job_id = job_id
        self._caller = caller
        self._decoded = decoded

    async def __aiter__(self) -> AsyncIterator[Event]:
        yield ANNOUNCEMENT
        usage: Usage | None = None
        async for event in self._events:
            if isinstance(event, Usage):
                usage = event
            else:
                yield event
        if usage is not None:
            job = await self._route.service.job(self._job_id, self._caller)
            self._decoded.response.completed_at = job.ended_at or self._decoded.response.completed_at
            yield usage


class BackgroundStream(GenerationResponse):
    """Streams a response that the queue generates. An interrupted stream ends without an event: it can be resumed."""

    async def _fail(self, send: Send, error: DragomanError) -> bytes:
        if is_final_error(error):
            builder, errors = self._options.decoded.builder, self._options.errors
            return self._encode(builder.failure(errors.render_event(error)))
        return b"" if self._stream_started else await super()._fail(send, error)


def background_stream(
    route: RouteContext,
    job: Job,
    received: ReceivedRequest,
    caller: Caller,
    *,
    starting_after: int = -1,
    may_repeat: bool = True,
) -> BackgroundStream:
    """Return the stream of a job's response. `may_repeat` is that of ResponseOptions."""
    decoded = received.decoded
    assert isinstance(decoded, DecodedResponse), "the route's codec decodes nothing else"

    async def start() -> EventStream:
        events = await route.service.follow_job(job.id, caller)
        return BackgroundEvents(events, route, job.id, caller, decoded)

    options = ResponseOptions(
        decoded=msgspec.structs.replace(decoded, stream=True),
        errors=received.codec.errors,
        headers=dict.fromkeys(route.id_headers, job.stored_request.answer_id),
        keep_alive_seconds=route.options.keep_alive_seconds,
        request_id=caller.request_id,
        may_repeat=may_repeat,
    )
    return BackgroundStream(start, options, EventsAfter(starting_after))


class BackgroundResponder(QueuedResponder):
    """Queues a request, and answers with the response that is still to come."""

    def response_for(self, job: Job, received: ReceivedRequest, headers: dict[str, str]) -> Response:
        decoded = received.decoded
        assert isinstance(decoded, DecodedResponse), "the route's codec decodes nothing else"
        if decoded.stream:
            return background_stream(self.call.route, job, received, self.call.caller, may_repeat=self._may_repeat)
        return Response(msgspec.json.encode(decoded.response.head), 200, headers, "application/json")
