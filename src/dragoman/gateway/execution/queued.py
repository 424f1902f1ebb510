"""Requests that are queued: from the gateway to the queue, and from the queue to the engines."""

from collections.abc import AsyncIterator, Sequence

import msgspec

from dragoman.core.errors import DragomanError
from dragoman.core.events import Event, Finished, Usage
from dragoman.core.jobs import Job, JobDraft
from dragoman.core.money import InvalidAmount
from dragoman.core.rate_limits import NO_LIMITS
from dragoman.core.request import QUEUED_PRIORITY_OFFSET, GenerationRequest
from dragoman.core.service import Caller, EventStream, find_model
from dragoman.gateway.admission.controller import AccessController, AdmissionRequest, EndReason, Principal
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.execution.request_execution import RequestExecution
from dragoman.gateway.routing.catalog import Catalog
from dragoman.jobs.service.queue import JobQueue
from dragoman.jobs.values.rows import Submission, account_owner


class JobService:
    """Where requests get into the queue, and where their owners ask for them."""

    def __init__(self, queue: JobQueue, access: AccessController) -> None:
        self._queue = queue
        self._access = access

    async def submit(self, draft: JobDraft, request: AdmissionRequest) -> Job:
        """Admit and store the request. Raises core.errors."""
        submission = Submission(draft, self._access.build_admission(request), request.caller.key_digest)
        try:
            return await self._queue.submit(submission)
        except (DragomanError, InvalidAmount) as error:
            raise self._access.translate_error(request, error) from None

    async def job(self, job_id: str, caller: Caller) -> Job:
        """How the caller's job stands. Raises core.errors."""
        return await self._queue.job(job_id, await self._owner(caller))

    async def cancel(self, job_id: str, caller: Caller) -> Job:
        """Cancel the caller's job. Raises core.errors."""
        return await self._queue.cancel(job_id, await self._owner(caller))

    async def follow(self, job_id: str, caller: Caller) -> EventStream:
        """The events of the caller's job. Raises core.errors."""
        return await self._queue.follow(job_id, await self._owner(caller))

    async def _owner(self, caller: Caller) -> str:
        # A job is its owner's whichever dialect it came in and is asked for.
        return job_owner(await self._access.authenticate(caller, None), caller)


def job_owner(principal: Principal, caller: Caller) -> str:
    """Whose jobs the visitor sees: those of the account that pays, or without accounts of the key."""
    return (
        caller.key_digest if principal.billing_account is None else account_owner(principal.billing_account.account_id)
    )


class GatewayJobExecutor:
    """Implements jobs.workshop.Workshop: all models, whichever dialects show them."""

    def __init__(self, catalog: Catalog, metrics: RequestMetrics) -> None:
        self._catalog = catalog
        self._metrics = metrics

    def models(self) -> list[str]:
        return [model.id for model in self._catalog.models()]

    def fingerprint(self, model: str) -> str | None:
        served = find_model(self._catalog.models(), model)
        return None if served is None else served.fingerprint

    async def load_model(self, model: str, requests: Sequence[GenerationRequest]) -> None:
        await self._catalog.resolve(model).deployment.engine.count_tokens(requests[0].prompt)

    def run(self, model: str, requests: Sequence[GenerationRequest], priority: int) -> "QueuedExecution":
        resolved = self._catalog.resolve(model)
        adapter = None if resolved.adapter is None else resolved.adapter.name
        queued_requests = [
            msgspec.structs.replace(request, adapter=adapter, priority=QUEUED_PRIORITY_OFFSET + priority)
            for request in requests
        ]
        counter = TokenCounter()
        execution = RequestExecution(
            resolved.deployment.engine, queued_requests, counter, self._metrics.start_timer(resolved.canonical_name)
        )
        return QueuedExecution(execution, counter)


class TokenCounter:
    """Implements access.Bill: the queue pays, and has to know how much."""

    allowances = NO_LIMITS

    def __init__(self) -> None:
        self.generated_tokens = 0

    def observe(self, event: Event) -> None:
        if not isinstance(event, Usage | Finished):
            self.generated_tokens += len(event.token_ids)

    def settle(self, reason: EndReason) -> None: ...


class QueuedExecution:
    """Implements jobs.workshop.Run."""

    def __init__(self, execution: RequestExecution, counter: TokenCounter) -> None:
        self._execution = execution
        self._counter = counter

    @property
    def generated_tokens(self) -> int:
        return self._counter.generated_tokens

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._execution.__aiter__()

    async def aclose(self) -> None:
        await self._execution.aclose()
