"""Queued requests: accepted immediately, run in their turn, and read by their owners."""

from typing import Literal

import msgspec

from dragoman.core.errors import DragomanError, Overloaded
from dragoman.core.idempotency import IdempotentRequest
from dragoman.core.tasks import Task

JobState = Literal["queued", "running", "finished", "failed", "cancelled"]

DEFAULT_PRIORITY = 128
LOWEST_PRIORITY = 255
"""Numbers go from 0, which is first, to this one."""


class SubmissionUnconfirmed(Overloaded):
    """The database did not say in time whether the request was queued. An equal one would be a second job."""


class StoredRequest(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={"codec": "name", "created_at": "created"},
):
    """What is needed to render a response in its dialect, at any later time and in any process."""

    codec: str
    """The name of the endpoint's codec, such as "infermatic.chat"."""
    arguments: dict[str, str]
    """Path parameters, and what decoding added to them."""
    body: bytes
    """The request's body, as it was sent."""
    answer_id: str
    """32 hex digits."""
    created_at: int
    """The creation time that the response reports, in Unix seconds."""


class JobDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A request to be queued. It is admitted under `stored_request.answer_id`."""

    requests: tuple[Task, ...]
    stored_request: StoredRequest
    priority: int = DEFAULT_PRIORITY
    client_waits: bool = False
    """Whether a client waits for it, so that it fails if it waits in the queue for too long."""
    idempotent_request: IdempotentRequest | None = None
    """Set if the request has an Idempotency-Key."""
    webhook: str | None = None
    """The URL that is notified of the job's end."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The current state of a queued request."""

    id: str
    """`job_` and 32 hex digits."""
    state: JobState
    stored_request: StoredRequest
    priority: int
    eta: int = 0
    """Estimated seconds until its end, from recent measurements; 0 without any."""
    position: int | None = None
    """While it waits: its position among the jobs that wait for the same model, from 1 on."""
    error: DragomanError | None = None
    """Why it failed."""
    ended_at: int | None = None
    """When it ended, in Unix seconds; None: it has not."""
    already_existed: bool = False
    """Whether the job existed already: the request repeated an earlier one with its Idempotency-Key."""
