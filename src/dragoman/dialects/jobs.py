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
from dragoman.dialects import sse
from dragoman.dialects.door import Door, attend
from dragoman.dialects.exchange import Exchange, Manner, is_its_end
from dragoman.dialects.form import ErrorReplies, asked_again
from dragoman.dialects.queue import JOB_ID_HEADER, JOBS_PATH

_ID = re.compile(r"job_[0-9a-f]{32}")

_MOST_DIGITS = 15
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


def job_routes(door: Door, errors: ErrorReplies) -> list[BaseRoute]:
    """Looking at jobs and cancelling them, behind the door of one dialect. It tells of jobs of all dialects."""

    async def look(request: Request) -> Response:
        async def answer(caller: Caller) -> Response:
            job = await door.service.job(_id_of(request), caller)
            if _wants_stream(request.headers):
                return _JobStream(job, _last_event(request.headers), door, caller, errors)
            return _json(await _standing(job, door, caller))

        return await attend(request, door, answer, errors)

    async def cancel(request: Request) -> Response:
        async def answer(caller: Caller) -> Response:
            job = await door.service.cancel_job(_id_of(request), caller)
            return _json(JobBody(job.id, job.state))

        return await attend(request, door, answer, errors)

    path = f"{JOBS_PATH}/{{id}}"
    return [Route(path, look, methods=["GET"]), Route(path, cancel, methods=["DELETE"])]


class _JobStream(Exchange):
    """What a job has told after a certain event, and what it will tell.

    How it ends is a part of the stream; only what is wrong with the question is an error response.
    """

    def __init__(self, job: Job, last_event: int, door: Door, caller: Caller, refusals: ErrorReplies) -> None:
        asked = asked_again(job.stored_request, door.options.forms)
        self._is_cut_off = False
        self._numbers = sse.NumberedFrames(last_event)
        self._last_event = last_event
        self._refusals = refusals
        call = asked.call._replace(stream=True)
        headers = {JOB_ID_HEADER: job.id}
        manner = Manner(call, asked.form.errors, headers, door.options.keep_alive_seconds, caller.request_id)
        super().__init__(lambda: door.service.follow_job(job.id, caller), manner, self._numbers)

    async def _fail(self, send: Send, error: DragomanError) -> bytes:
        if is_its_end(error):
            return self._numbers.next(self._errors.frame(error))
        self._is_cut_off = True
        return await super()._fail(send, error)

    async def _end(self, send: Send, last: bytes) -> None:
        if not self._numbers.reached and not self._is_cut_off:
            error = BadRequest(f"Last-Event-ID is {self._last_event}, but the stream ended before such an event")
            if not self._stream_began:
                reply = self._refusals.reply(error)
                await self._begin(send, reply.status, {"content-type": "application/json", **reply.headers})
                last = reply.body
            else:
                last = self._errors.frame(error)
        await super()._end(send, last)


async def _standing(job: Job, door: Door, caller: Caller) -> JobBody:
    match job.state:
        case "queued":
            return JobBody(job.id, job.state, job.eta, UNSET if job.position is None else job.position)
        case "running":
            return JobBody(job.id, job.state, job.eta)
        case "finished":
            return JobBody(job.id, job.state, result=Raw(await _result(job, door, caller)))
        case "failed" if job.error is not None:
            asked = asked_again(job.stored_request, door.options.forms)
            told = asked.form.errors.reply(asked.call.as_sent(job.error)).body
            members: Mapping[str, Raw] = msgspec.json.decode(told, type=dict[str, Raw])
            return JobBody(job.id, job.state, error=members.get("error", UNSET), detail=members.get("detail", UNSET))
        case _:
            return JobBody(job.id, job.state)


async def _result(job: Job, door: Door, caller: Caller) -> bytes:
    machine = asked_again(job.stored_request, door.options.forms).call.machine
    async with contextlib.aclosing(await door.service.follow_job(job.id, caller)) as events:
        async for event in events:
            for _ in machine.feed(event):
                pass
    return machine.collected()


def _id_of(request: Request) -> str:
    """The job's in the path. Raises JobNotFound for what no job can be called."""
    job_id: str = request.path_params["id"]
    if not _ID.fullmatch(job_id):
        raise JobNotFound(job_id)
    return job_id


def _wants_stream(headers: Headers) -> bool:
    kinds = (kind.partition(";")[0].strip().lower() for kind in ",".join(headers.getlist("accept")).split(","))
    return "text/event-stream" in kinds


def _last_event(headers: Headers) -> int:
    """The number of the last event that the reader has, 0 without one. Raises BadRequest for no number."""
    text = headers.get("last-event-id", "0")
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise BadRequest("Last-Event-ID must be the id of one of the stream's events, a number")
    return int(text)


def _json(body: JobBody) -> Response:
    return Response(msgspec.json.encode(body), headers={JOB_ID_HEADER: body.id}, media_type="application/json")
