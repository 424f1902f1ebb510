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
from dragoman.dialects.http import sse
from dragoman.dialects.http.codec import ReceivedRequest, restore_request
from dragoman.dialects.http.context import RouteContext
from dragoman.dialects.http.errors import preceding_error
from dragoman.dialects.http.generation_response import GenerationResponse, ResponseOptions
from dragoman.dialects.http.idempotency import REPLAYED

JOB_ID_HEADER = "x-dragoman-job-id"
"""Stands in every answer that has to do with a job."""

WEBHOOK_HEADER = "x-dragoman-webhook"

RESPOND_ASYNC = "respond-async"
"""RFC 7240, section 4.1."""

JOBS_PATH = "/queue/response"

_MAX_WEBHOOK_LENGTH = 2000

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')

QueueMode = Literal["when preferred", "held", "at once"]
"""When a route queues requests: those that prefer it; all, and clients wait unless they prefer not to; all."""


class QueuedJobBody(msgspec.Struct, frozen=True):
    """A request that was queued."""

    id: str
    url: str
    """Where its answer is to be had."""
    eta: int
    """Seconds until then, estimated."""
    status: JobState


class SubmissionOptions(NamedTuple):
    """How a request is to be queued."""

    client_waits: bool
    """Whether its client waits for the answer."""
    prefers_async: bool
    """Whether its client said not to wait."""
    webhook: str | None

    @property
    def fingerprint_parts(self) -> tuple[str, ...]:
        """What makes it another request than the same body sent without them."""
        return (RESPOND_ASYNC if self.prefers_async else "", self.webhook or "")


def submission_options(headers: Headers, mode: QueueMode) -> SubmissionOptions | None:
    """How a request to such a route is to be queued; None: not at all. Raises BadRequest."""
    preferred = prefers_async(headers)
    webhook = _webhook(headers)
    if mode == "when preferred" and not preferred:
        if webhook is not None:
            raise BadRequest(f"{WEBHOOK_HEADER} tells of queued requests only: send Prefer: {RESPOND_ASYNC} too")
        return None
    return SubmissionOptions(mode == "held" and not preferred, preferred and mode != "at once", webhook)


def prefers_async(headers: Headers) -> bool:
    """Whether `Prefer: respond-async` is among the preferences (RFC 7240)."""
    preferences = _QUOTED.sub('""', ",".join(headers.getlist("prefer"))).split(",")
    # What has a value is not this preference, and unknown ones are ignored; an empty value is none.
    return any(
        re.fullmatch(rf'{RESPOND_ASYNC}(\s*=\s*("")?)?', preference.partition(";")[0].strip().lower())
        for preference in preferences
    )


async def enqueue(
    received: ReceivedRequest,
    submission: SubmissionOptions,
    idempotent_request: IdempotentRequest | None,
    route: RouteContext,
    caller: Caller,
) -> Job:
    """Put a request into the queue. Raises core.errors."""
    requests = received.decoded.requests
    draft = JobDraft(
        tuple(requests),
        received.to_stored(),
        received.decoded.priority,
        submission.client_waits,
        idempotent_request,
        webhook=submission.webhook,
    )
    try:
        return await route.service.submit(draft, caller)
    except DragomanError as error:
        raise received.decoded.in_client_terms(
            await preceding_error(route.service, caller, error, requests[0].model)
        ) from None


def queued_response(
    job: Job, received: ReceivedRequest, submission: SubmissionOptions, route: RouteContext, caller: Caller
) -> Response:
    """What the client of a request is answered that was queued as `job`."""
    headers = dict.fromkeys(route.id_headers, job.stored_request.answer_id) | {JOB_ID_HEADER: job.id}
    if job.already_existed:
        headers |= [REPLAYED]
        # Its answer has the names that it was given first.
        received = restore_request(job.stored_request, route.options.codecs)
    if submission.client_waits:
        decoded, errors = received.decoded, received.codec.errors
        response_options = ResponseOptions(
            decoded,
            errors,
            {**headers, **decoded.headers},
            route.options.keep_alive_seconds,
            job.stored_request.answer_id,
        )
        return GenerationResponse(
            lambda: route.service.follow_job(job.id, caller), response_options, sse.NumberedFrames()
        )
    url = f"{JOBS_PATH}/{job.id}"
    body = msgspec.json.encode(QueuedJobBody(job.id, url, job.eta, job.state))
    if not submission.prefers_async:
        return Response(body, 200, headers, "application/json")
    return Response(body, 202, headers | {"location": url, "preference-applied": RESPOND_ASYNC}, "application/json")


def _webhook(headers: Headers) -> str | None:
    """Where to tell of the end. Raises BadRequest for what is no URL of a web server."""
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
    except ValueError:  # a port that is no number, or an IPv6 address that is none
        return False
