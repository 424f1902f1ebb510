"""What became of a queued request, for whoever asks: its state, its answer, or the rest of its stream."""

import contextlib
import re
from collections.abc import Mapping

import msgspec
from msgspec import UNSET, Raw, UnsetType
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Send

from dragoman.core.errors import BadRequest, DragomanError, JobNotFound
from dragoman.core.jobs import Job, JobState
from dragoman.core.service import Caller
from dragoman.dialects.http import sse
from dragoman.dialects.http.codec import ErrorRenderer, restore_request
from dragoman.dialects.http.context import RouteContext, with_error_mapping
from dragoman.dialects.http.generation_response import GenerationResponse, ResponseOptions, is_final_error
from dragoman.dialects.http.queueing import JOB_ID_HEADER, JOBS_PATH

_ID = re.compile(r"job_[0-9a-f]{32}")

_MAX_DIGITS = 15
"""Of the number of an event."""


class JobBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """A queued request as it stands. A failed one has its dialect's error: as `error`, or as `detail`."""

    id: str
    status: JobState
    eta: int | UnsetType = UNSET
    """Seconds until its answer is complete, estimated."""
    position: int | UnsetType = UNSET
    """Its place among those that wait for the same model, from 1 on."""
    result: Raw | UnsetType = UNSET
    """What it would have been answered had it not been queued."""
    error: Raw | UnsetType = UNSET
    detail: Raw | UnsetType = UNSET


class JobEvent(msgspec.Struct, frozen=True):
    """An event of the stream that the request would have been answered with, in its dialect's shape."""


def job_routes(route: RouteContext, errors: ErrorRenderer) -> list[BaseRoute]:
    """Looking at jobs and cancelling them, behind the door of one dialect. It tells of jobs of all dialects."""

    async def look(request: Request) -> Response:
        async def answer(caller: Caller) -> Response:
            job = await route.service.job(_requested_job_id(request), caller)
            if _wants_stream(request.headers):
                return _JobStreamResponse(job, _last_event_id(request.headers), route, caller, errors)
            return _json(await _job_body(job, route, caller))

        return await with_error_mapping(request, route, answer, errors)

    async def cancel(request: Request) -> Response:
        async def answer(caller: Caller) -> Response:
            job = await route.service.cancel_job(_requested_job_id(request), caller)
            return _json(JobBody(job.id, job.state))

        return await with_error_mapping(request, route, answer, errors)

    path = f"{JOBS_PATH}/{{id}}"
    return [Route(path, look, methods=["GET"]), Route(path, cancel, methods=["DELETE"])]


class _JobStreamResponse(GenerationResponse):
    """What a job has told after a certain event, and what it will tell.

    How it ends is a part of the stream; only what is wrong with the question is an error response.
    """

    def __init__(
        self, job: Job, last_event_id: int, route: RouteContext, caller: Caller, error_renderer: ErrorRenderer
    ) -> None:
        received = restore_request(job.stored_request, route.options.codecs)
        self._is_interrupted = False
        self._numbered_frames = sse.NumberedFrames(last_event_id)
        self._last_event_id = last_event_id
        self._error_renderer = error_renderer
        decoded = received.decoded._replace(stream=True)
        headers = {JOB_ID_HEADER: job.id}
        response_options = ResponseOptions(
            decoded, received.codec.errors, headers, route.options.keep_alive_seconds, caller.request_id
        )
        super().__init__(lambda: route.service.follow_job(job.id, caller), response_options, self._numbered_frames)

    async def _fail(self, send: Send, error: DragomanError) -> bytes:
        if is_final_error(error):
            return self._numbered_frames.encode(self._errors.render_frame(error))
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
                last = self._errors.render_frame(error)
        await super()._end(send, last)


async def _job_body(job: Job, route: RouteContext, caller: Caller) -> JobBody:
    match job.state:
        case "queued":
            return JobBody(job.id, job.state, job.eta, UNSET if job.position is None else job.position)
        case "running":
            return JobBody(job.id, job.state, job.eta)
        case "finished":
            return JobBody(job.id, job.state, result=Raw(await _result(job, route, caller)))
        case "failed" if job.error is not None:
            received = restore_request(job.stored_request, route.options.codecs)
            error_body = received.codec.errors.render(received.decoded.in_client_terms(job.error)).body
            members: Mapping[str, Raw] = msgspec.json.decode(error_body, type=dict[str, Raw])
            return JobBody(job.id, job.state, error=members.get("error", UNSET), detail=members.get("detail", UNSET))
        case _:
            return JobBody(job.id, job.state)


async def _result(job: Job, route: RouteContext, caller: Caller) -> bytes:
    builder = restore_request(job.stored_request, route.options.codecs).decoded.builder
    async with contextlib.aclosing(await route.service.follow_job(job.id, caller)) as events:
        async for event in events:
            for _ in builder.feed(event):
                pass
    return builder.build()


def _requested_job_id(request: Request) -> str:
    """The job's in the path. Raises JobNotFound for what no job can be called."""
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
    """The number of the last event that the reader has, 0 without one. Raises BadRequest for no number."""
    text = headers.get("last-event-id", "0")
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
        raise BadRequest("Last-Event-ID must be the id of one of the stream's events, a number")
    return int(text)


def _json(body: JobBody) -> Response:
    return Response(msgspec.json.encode(body), headers={JOB_ID_HEADER: body.id}, media_type="application/json")
