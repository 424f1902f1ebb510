"""Requests that are queued: accepted at once, run when their turn comes, and answered to whoever asks for them."""

from typing import Literal, Protocol

import msgspec

from dragoman.core.errors import DragomanError
from dragoman.core.idempotency import IdempotentRequest
from dragoman.core.request import GenerationRequest
from dragoman.core.service import Caller, EventStream, GenerationService

JobState = Literal["queued", "running", "finished", "failed", "cancelled"]

DEFAULT_PRIORITY = 128
LOWEST_PRIORITY = 255
"""Numbers go from 0, which is first, to this one."""


class StoredRequest(msgspec.Struct, frozen=True):
    """What it takes to tell an answer in its client's words, at any later time and in any process."""

    name: str
    """Of a dialect's form, such as "infermatic.chat"."""
    arguments: dict[str, str]
    """What the path said besides."""
    body: bytes
    """The request's, as it was sent."""
    answer_id: str
    """32 hex digits."""
    created: int
    """When the answer says it was made, in Unix seconds."""


class JobDraft(msgspec.Struct, frozen=True):
    """A request that is to be queued. It is admitted under the id of its form's answer."""

    requests: tuple[GenerationRequest, ...]
    stored_request: StoredRequest
    priority: int = DEFAULT_PRIORITY
    client_waits: bool = False
    """Whether a client waits for it, so that it fails when it has waited too long."""
    idempotent_request: IdempotentRequest | None = None
    """Of a request with an Idempotency-Key."""
    webhook: str | None = None
    """Where to tell that it has ended."""


class Job(msgspec.Struct, frozen=True):
    """A queued request as it stands now."""

    id: str
    """`job_` and 32 hex digits."""
    state: JobState
    stored_request: StoredRequest
    priority: int
    eta: int = 0
    """Seconds until it will have ended, by what was measured lately; 0 when nothing was."""
    position: int | None = None
    """While it waits: its place among those waiting for the same model, from 1 on."""
    error: DragomanError | None = None
    """Why it failed."""
    already_existed: bool = False
    """Whether it was there already: the answer to a request that came again with its Idempotency-Key."""


class QueueService(GenerationService, Protocol):
    """The gateway, as a dialect sees it whose requests may be queued. Everything raises core.errors."""

    @property
    def has_queue(self) -> bool:
        """Whether there is a queue at all: it needs a database."""
        ...

    async def submit(self, draft: JobDraft, caller: Caller) -> Job:
        """Admit the request and put it into the queue; when this returns it survives whatever happens.

        Raises Overloaded when the queue is full or cannot be used, IdempotencyConflict, and what `generate` raises for
        a request that may not run.
        """
        ...

    async def job(self, job_id: str, caller: Caller) -> Job:
        """How it stands. Raises JobNotFound, also for somebody else's."""
        ...

    async def cancel_job(self, job_id: str, caller: Caller) -> Job:
        """Stop it, and pay for what was generated; one that has ended stays as it is. Raises JobNotFound."""
        ...

    async def follow_job(self, job_id: str, caller: Caller) -> EventStream:
        """Its events from the first on, those to come too; what is told of survives this process.

        They end with the error of a job that failed, JobTimedOut or JobCancelled. Closing it cancels nothing. Raises
        JobNotFound.
        """
        ...
