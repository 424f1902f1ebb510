"""Requests that are queued: what asks for it, and what is answered to them."""

import re
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response

from dragoman.core.errors import BadRequest, DragomanError
from dragoman.core.idempotency import IdempotentRequest
from dragoman.core.jobs import Job, JobDraft, JobState
from dragoman.core.service import Caller
from dragoman.dialects import sse
from dragoman.dialects.door import Door, first_fault
from dragoman.dialects.exchange import Exchange, Manner
from dragoman.dialects.form import Asked, asked_again
from dragoman.dialects.idempotency import REPLAYED

JOB_ID_HEADER = "x-dragoman-job-id"
"""Stands in every answer that has to do with a job."""

WEBHOOK_HEADER = "x-dragoman-webhook"

RESPOND_ASYNC = "respond-async"
"""RFC 7240, section 4.1."""

JOBS_PATH = "/queue/response"

_LONGEST_WEBHOOK = 2000

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')

QueueUse = Literal["when preferred", "held", "at once"]
"""When a route queues requests: those that prefer it; all, and clients wait unless they prefer not to; all."""


class QueuedBody(msgspec.Struct, frozen=True):
    """A request that was queued."""

    id: str
    url: str
    """Where its answer is to be had."""
    eta: int
    """Seconds until then, estimated."""
    status: JobState


class Queueing(NamedTuple):
    """How a request is to be queued."""

    held: bool
    """Whether its client waits for the answer."""
    preferred: bool
    """Whether its client said not to wait."""
    webhook: str | None

    @property
    def words(self) -> tuple[str, ...]:
        """What makes it another request than the same body sent without them."""
        return (RESPOND_ASYNC if self.preferred else "", self.webhook or "")


def queueing_of(headers: Headers, use: QueueUse) -> Queueing | None:
    """How a request to such a route is to be queued; None: not at all. Raises BadRequest."""
    preferred = prefers_async(headers)
    webhook = _webhook(headers)
    if use == "when preferred" and not preferred:
        if webhook is not None:
            raise BadRequest(f"{WEBHOOK_HEADER} tells of queued requests only: send Prefer: {RESPOND_ASYNC} too")
        return None
    return Queueing(use == "held" and not preferred, preferred and use != "at once", webhook)


def prefers_async(headers: Headers) -> bool:
    """Whether `Prefer: respond-async` is among the preferences (RFC 7240)."""
    preferences = _QUOTED.sub('""', ",".join(headers.getlist("prefer"))).split(",")
    # What has a value is not this preference, and unknown ones are ignored; an empty value is none.
    return any(
        re.fullmatch(rf'{RESPOND_ASYNC}(\s*=\s*("")?)?', preference.partition(";")[0].strip().lower())
        for preference in preferences
    )


async def enqueue(
    asked: Asked, queueing: Queueing, attempt: IdempotentRequest | None, door: Door, caller: Caller
) -> Job:
    """Put a request into the queue. Raises core.errors."""
    requests = asked.call.requests
    draft = JobDraft(
        tuple(requests), asked.kept(), asked.call.priority, queueing.held, attempt, webhook=queueing.webhook
    )
    try:
        return await door.service.submit(draft, caller)
    except DragomanError as error:
        raise asked.call.as_sent(await first_fault(door.service, caller, error, requests[0].model)) from None


def queued_response(job: Job, asked: Asked, queueing: Queueing, door: Door, caller: Caller) -> Response:
    """What the client of a request is answered that was queued as `job`."""
    headers = dict.fromkeys(door.id_headers, job.stored_request.answer_id) | {JOB_ID_HEADER: job.id}
    if job.already_existed:
        headers |= [REPLAYED]
        # Its answer has the names that it was given first.
        asked = asked_again(job.stored_request, door.options.forms)
    if queueing.held:
        call, errors = asked.call, asked.form.errors
        manner = Manner(
            call, errors, {**headers, **call.headers}, door.options.keep_alive_seconds, job.stored_request.answer_id
        )
        return Exchange(lambda: door.service.follow_job(job.id, caller), manner, sse.NumberedFrames())
    url = f"{JOBS_PATH}/{job.id}"
    body = msgspec.json.encode(QueuedBody(job.id, url, job.eta, job.state))
    if not queueing.preferred:
        return Response(body, 200, headers, "application/json")
    return Response(body, 202, headers | {"location": url, "preference-applied": RESPOND_ASYNC}, "application/json")


def _webhook(headers: Headers) -> str | None:
    """Where to tell of the end. Raises BadRequest for what is no URL of a web server."""
    sent = headers.getlist(WEBHOOK_HEADER)
    if not sent:
        return None
    if len(sent) > 1 or not _is_web_address(sent[0]):
        raise BadRequest(
            f"{WEBHOOK_HEADER} must be one URL that begins with https:// or http://, "
            f"of at most {_LONGEST_WEBHOOK} characters"
        )
    return sent[0]


def _is_web_address(text: str) -> bool:
    if len(text) > _LONGEST_WEBHOOK or not text.isascii() or not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number, or an IPv6 address that is none
        return False
