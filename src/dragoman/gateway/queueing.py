"""Requests that are queued: from the gateway to the queue, and from the queue to the engines."""

from collections.abc import AsyncIterator, Sequence

import msgspec

from dragoman.accounts.money import InvalidAmount
from dragoman.accounts.refusals import Refusal
from dragoman.core.allowance import NO_LIMITS
from dragoman.core.events import Event, Finished, Usage
from dragoman.core.jobs import Job, JobDraft
from dragoman.core.request import QUEUED, GenerationRequest
from dragoman.core.service import Answering, Caller, find_model
from dragoman.gateway.access import Access, Ending, Order, Visitor
from dragoman.gateway.catalog import Catalog
from dragoman.gateway.meter import Meter
from dragoman.gateway.running import RunningRequest
from dragoman.jobs.queue import JobQueue
from dragoman.jobs.rows import Submission, account_owner


class QueueDesk:
    """Where requests get into the queue, and where their owners ask for them."""

    def __init__(self, queue: JobQueue, access: Access) -> None:
        self._queue = queue
        self._access = access

    async def submit(self, draft: JobDraft, order: Order) -> Job:
        """Admit and store the request. Raises core.errors."""
        submission = Submission(draft, self._access.admission(order), order.caller.key_digest)
        try:
            return await self._queue.submit(submission)
        except (Refusal, InvalidAmount) as error:
            raise self._access.refused(order, error) from None

    async def job(self, job_id: str, caller: Caller) -> Job:
        """How the caller's job stands. Raises core.errors."""
        return await self._queue.job(job_id, await self._owner(caller))

    async def cancel(self, job_id: str, caller: Caller) -> Job:
        """Cancel the caller's job. Raises core.errors."""
        return await self._queue.cancel(job_id, await self._owner(caller))

    async def follow(self, job_id: str, caller: Caller) -> Answering:
        """The events of the caller's job. Raises core.errors."""
        return await self._queue.follow(job_id, await self._owner(caller))

    async def _owner(self, caller: Caller) -> str:
        # A job is its owner's whichever dialect it came in and is asked for.
        return owner_of(await self._access.identify(caller, None), caller)


def owner_of(visitor: Visitor, caller: Caller) -> str:
    """Whose jobs the visitor sees: those of the account that pays, or without accounts of the key."""
    return caller.key_digest if visitor.payer is None else account_owner(visitor.payer.account_id)


class GatewayWorkshop:
    """Implements jobs.workshop.Workshop: all models, whichever dialects show them."""

    def __init__(self, catalog: Catalog, meter: Meter) -> None:
        self._catalog = catalog
        self._meter = meter

    def models(self) -> list[str]:
        return [model.id for model in self._catalog.models()]

    def fingerprint(self, model: str) -> str | None:
        served = find_model(self._catalog.models(), model)
        return None if served is None else served.fingerprint

    async def wake(self, model: str, requests: Sequence[GenerationRequest]) -> None:
        await self._catalog.resolve(model).deployment.engine.count_tokens(requests[0].prompt)

    def run(self, model: str, requests: Sequence[GenerationRequest], priority: int) -> "QueuedRun":
        resolved = self._catalog.resolve(model)
        adapter = None if resolved.adapter is None else resolved.adapter.name
        asked = [msgspec.structs.replace(request, adapter=adapter, priority=QUEUED + priority) for request in requests]
        bill = CountingBill()
        running = RunningRequest(resolved.deployment.engine, asked, bill, self._meter.begin(resolved.own_name))
        return QueuedRun(running, bill)


class CountingBill:
    """Implements access.Bill: the queue pays, and has to know how much."""

    allowances = NO_LIMITS

    def __init__(self) -> None:
        self.generated = 0

    def observe(self, event: Event) -> None:
        if not isinstance(event, Usage | Finished):
            self.generated += len(event.token_ids)

    def settle(self, ending: Ending) -> None: ...


class QueuedRun:
    """Implements jobs.workshop.Run."""

    def __init__(self, running: RunningRequest, bill: CountingBill) -> None:
        self._running = running
        self._bill = bill

    @property
    def generated(self) -> int:
        return self._bill.generated

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._running.__aiter__()

    async def aclose(self) -> None:
        await self._running.aclose()
