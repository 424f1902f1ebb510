"""The routes of queued requests: their state, their answer, or the rest of their stream."""

import contextlib
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import msgspec
from msgspec import UNSET, Raw, UnsetType
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Send

from dragoman.core.context import Caller
from dragoman.core.errors import BadRequest, DragomanError, JobNotFound
from dragoman.core.jobs import Job, JobState
from dragoman.core.services import EventStream
from dragoman.dialects.http import sse
from dragoman.dialects.http.codec import ErrorRenderer
from dragoman.dialects.http.context import RouteContext, with_error_mapping
from dragoman.dialects.http.generation_response import (
    GenerationResponse,
    NumberedFrames,
    ResponseOptions,
    is_final_error,
)
from dragoman.dialects.http.large_bodies import restore

JOB_ID_HEADER = "x-dragoman-job-id"
"""In every response about a job."""

JOBS_PATH = "/queue/response"

_ID = re.compile(r"job_[0-9a-f]{32}")

_MAX_DIGITS = 15
"""Of the number of an event."""


class QueuedJobBody(msgspec.Struct, frozen=True):
    """A request that was queued."""

    id: str
    url: str
    """The path of its answer."""
    eta: int
    """Estimated seconds until the answer is complete."""
    status: JobState


class JobBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of a queued request. A failed one has its dialect's error: as `error`, or as `detail`."""

    id: str
    status: JobState
    eta: int | UnsetType = UNSET
    """Estimated seconds until the answer is complete."""
    position: int | UnsetType = UNSET
    """Its place among those waiting for the same model, from 1 on."""
    result: Raw | UnsetType = UNSET
    """The answer, as it would be without the queue."""
    error: Raw | UnsetType = UNSET
    detail: Raw | UnsetType = UNSET


class JobEvent(msgspec.Struct, frozen=True):
    """An event of the request's stream, in its dialect's shape."""


def job_routes(route: RouteContext, errors: ErrorRenderer) -> list[BaseRoute]:
    """Return the routes to get and to cancel jobs, of all dialects, with the authentication of one dialect."""

    async def get_job(request: Request) -> Response:
        async def handler(caller: Caller) -> Response:
            job = await route.service.job(_requested_job_id(request), caller)
            if _wants_stream(request.headers):
                last_event_id = _last_event_id(request.headers)
                options = await _stream_options(job, route, caller)
                start = partial(route.service.follow_job, job.id, caller)
                return _JobStreamResponse(start, options, last_event_id, errors)
            return _job_response(await _job_body(job, route, caller))

        return await with_error_mapping(request, route, handler, errors)

    async def cancel_job(request: Request) -> Response:
        async def handler(caller: Caller) -> Response:
            job = await route.service.cancel_job(_requested_job_id(request), caller)
            return _job_response(JobBody(id=job.id, status=job.state))

        return await with_error_mapping(request, route, handler, errors)

    path = f"{JOBS_PATH}/{{id}}"
    return [Route(path, get_job, methods=["GET"]), Route(path, cancel_job, methods=["DELETE"])]


class _JobStreamResponse(GenerationResponse):
    """Streams a job's events after a given one, those to come included.

    An error of the job ends the stream; only an error of this request itself is an error response.
    """

    def __init__(
        self,
        start: Callable[[], Awaitable[EventStream]],
        options: ResponseOptions,
        last_event_id: int,
        error_renderer: ErrorRenderer,
    ) -> None:
        """`options` are those of the job's answer, and `error_renderer` is for errors of this request."""
        self._is_interrupted = False
        self._numbered_frames = NumberedFrames(last_event_id)
        self._last_event_id = last_event_id
        self._error_renderer = error_renderer
        super().__init__(start, options, self._numbered_frames)

    async def _fail(self, send: Send, error: DragomanError) -> bytes:
        if is_final_error(error):
            builder, errors = self._options.decoded.builder, self._options.errors
            return self._encode(builder.failure(errors.render_event(error)))
        self._is_interrupted = True
        return await super()._fail(send, error)

    async def _end(self, send: Send, last: bytes) -> None:
        if not self._numbered_frames.has_caught_up and not self._is_interrupted:
            error = BadRequest(f"Last-Event-ID is {self._last_event_id}, but the stream ended before such an event")
            if not self._stream_started:
                rendered = self._error_renderer.render(error)
                await self._send_start(send, rendered.status, {"content-type": "application/json", **rendered.headers})
                last = rendered.body
            else:
                last = sse.frame(self._options.errors.render_event(error))
        await super()._end(send, last)


async def _stream_options(job: Job, route: RouteContext, caller: Caller) -> ResponseOptions:
    received = await restore(job.stored_request, route, caller)
    return ResponseOptions(
        decoded=msgspec.structs.replace(received.decoded, stream=True),
        errors=received.codec.errors,
        headers={JOB_ID_HEADER: job.id},
        keep_alive_seconds=route.options.keep_alive_seconds,
        request_id=caller.request_id,
    )


async def _job_body(job: Job, route: RouteContext, caller: Caller) -> JobBody:
    match job.state:
        case "queued":
            return JobBody(
                id=job.id, status=job.state, eta=job.eta, position=UNSET if job.position is None else job.position
            )
        case "running":
            return JobBody(id=job.id, status=job.state, eta=job.eta)
        case "finished":
            return JobBody(id=job.id, status=job.state, result=Raw(await _result(job, route, caller)))
        case "failed" if job.error is not None:
            received = await restore(job.stored_request, route, caller)
            error_body = received.codec.errors.render(received.decoded.in_client_terms(job.error)).body
            members: Mapping[str, Raw] = msgspec.json.decode(error_body, type=dict[str, Raw])
            return JobBody(
                id=job.id, status=job.state, error=members.get("error", UNSET), detail=members.get("detail", UNSET)
            )
        case _:
            return JobBody(id=job.id, status=job.state)


async def _result(job: Job, route: RouteContext, caller: Caller) -> bytes:
    builder = (await restore(job.stored_request, route, caller)).decoded.builder
    async with contextlib.aclosing(await route.service.follow_job(job.id, caller)) as events:
        async for event in events:
            builder.note(event)
    return builder.build()


def _requested_job_id(request: Request) -> str:
    """Return the id in the path. Raises JobNotFound for what cannot be one."""
    job_id: str = request.path_params["id"]
    if not _ID.fullmatch(job_id):
        raise JobNotFound(job_id)
    return job_id


def _wants_stream(headers: Headers) -> bool:
    media_types = (
        media_type.partition(";")[0].strip().lower() for media_type in ",".join(headers.getlist("accept")).split(",")
    )
    return "text/event-stream" in media_types


def _last_event_id(headers: Headers) -> int:
    """Return the number of the last event the reader has, 0 if none. Raises BadRequest for anything but a number."""
    text = headers.get("last-event-id", "0")
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
        raise BadRequest("Last-Event-ID must be the id of one of the stream's events, a number")
    return int(text)


def _job_response(body: JobBody) -> Response:
    return Response(msgspec.json.encode(body), headers={JOB_ID_HEADER: body.id}, media_type="application/json")
