"""A queue in memory, for tests of what is told of jobs."""

import asyncio
from collections.abc import AsyncGenerator

from dragoman.core.allowance import NO_LIMITS, Allowances
from dragoman.core.errors import DragomanError, IdempotencyConflict, JobCancelled, JobNotFound
from dragoman.core.events import Event
from dragoman.core.identifiers import new_request_id
from dragoman.core.jobs import Job, JobDraft, JobState
from dragoman.core.service import Answering, Caller
from dragoman.gateway.catalog import Catalog
from dragoman.gateway.gateway import Gateway
from dragoman.gateway.keys import NO_KEYS, KeyRing
from dragoman.gateway.meter import Meter


class _Kept:
    def __init__(self, draft: JobDraft, owner: str | None) -> None:
        self.id = f"job_{new_request_id()}"
        self.draft = draft
        self.owner = owner
        self.state: JobState = "queued"
        self.events: list[Event] = []
        self.error: DragomanError | None = None
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def shown(self, *, repeated: bool = False) -> Job:
        position = 1 if self.state == "queued" else None
        return Job(self.id, self.state, self.draft.form, self.draft.priority, 1, position, self.error, repeated)


class _Following:
    allowances: Allowances = NO_LIMITS

    def __init__(self, kept: _Kept) -> None:
        self._events = self._follow(kept)

    async def _follow(self, kept: _Kept) -> AsyncGenerator[Event]:
        number = 0
        while True:
            changed = kept.changed
            while number < len(kept.events):
                yield kept.events[number]
                number += 1
            if kept.error is not None:
                raise kept.error
            if kept.state == "finished":
                return
            await changed.wait()

    def __aiter__(self) -> AsyncGenerator[Event]:
        return self._events

    async def aclose(self) -> None:
        await self._events.aclose()


class MemoryQueue(Gateway):
    """Runs its jobs at once, beside each other."""

    def __init__(
        self, catalog: Catalog, meter: Meter, keys: KeyRing = NO_KEYS, jobs: list[_Kept] | None = None
    ) -> None:
        super().__init__(catalog, meter, keys)
        self._parts = catalog, meter, keys
        self.jobs = [] if jobs is None else jobs

    def shown_in(self, dialect: str) -> "MemoryQueue":
        catalog, meter, keys = self._parts
        return MemoryQueue(catalog.shown_in(dialect), meter, keys, self.jobs)

    @property
    def keeps_jobs(self) -> bool:
        return True

    async def submit(self, draft: JobDraft, caller: Caller) -> Job:
        for kept in self.jobs:
            known, attempt = kept.draft.attempt, draft.attempt
            if known and attempt and (known.caller, known.key) == (attempt.caller, attempt.key):
                if known.fingerprint != attempt.fingerprint:
                    raise IdempotencyConflict("Idempotency-Key was used for another request before")
                return kept.shown(repeated=True)
        self._catalog.resolve(draft.requests[0].model)
        kept = _Kept(draft, caller.key)
        self.jobs.append(kept)
        kept.task = asyncio.create_task(self._run(kept, caller))
        return kept.shown()

    async def _run(self, kept: _Kept, caller: Caller) -> None:
        try:
            answering = await self.generate(kept.draft.requests, caller)
            kept.state = "running"
            async for event in answering:
                kept.events.append(event)
                kept.tell()
                await asyncio.sleep(0)
            kept.state = "finished"
        except DragomanError as error:
            kept.state, kept.error = "failed", error
        finally:
            kept.tell()

    async def job(self, job_id: str, caller: Caller) -> Job:
        return self._kept(job_id, caller).shown()

    async def cancel_job(self, job_id: str, caller: Caller) -> Job:
        kept = self._kept(job_id, caller)
        if kept.state in ("queued", "running"):
            assert kept.task is not None
            kept.task.cancel()
            kept.state, kept.error = "cancelled", JobCancelled(job_id)
            kept.tell()
        return kept.shown()

    async def follow_job(self, job_id: str, caller: Caller) -> Answering:
        return _Following(self._kept(job_id, caller))

    def _kept(self, job_id: str, caller: Caller) -> _Kept:
        for kept in self.jobs:
            if (kept.id, kept.owner) == (job_id, caller.key):
                return kept
        raise JobNotFound(job_id)
