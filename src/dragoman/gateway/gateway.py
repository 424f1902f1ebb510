"""One request's way: route the model's name, admit, run, and see that everything ends."""

import asyncio
from collections.abc import Sequence

import msgspec

from dragoman.accounts.database_thread import DatabaseThread
from dragoman.core.adapters import AdapterOrder, RegisteredAdapter
from dragoman.core.errors import (
    BadRequest,
    ContextOverflow,
    DragomanError,
    Forbidden,
    ModelLoading,
    ModelNotFound,
    NoAccount,
    ShuttingDown,
    Unauthenticated,
)
from dragoman.core.jobs import Job, JobDraft
from dragoman.core.request import GenerationRequest, Prompt
from dragoman.core.service import Answering, Caller, ServedModel
from dragoman.engines.base import AdapterStore, Engine
from dragoman.gateway.access import Access, Bill, Order, Visitor
from dragoman.gateway.adapters import AdapterDesk, NoAdapterStore
from dragoman.gateway.best_of import Contest
from dragoman.gateway.catalog import Catalog, Resolved
from dragoman.gateway.guesses import Guesses
from dragoman.gateway.keys import NO_KEYS
from dragoman.gateway.meter import Meter
from dragoman.gateway.queueing import QueueDesk
from dragoman.gateway.running import RunningRequest
from dragoman.gateway.usage import RecordedUsage
from dragoman.jobs.queue import JobQueue


class _House:
    """What the gateways of all dialects share."""

    def __init__(self) -> None:
        self.draining = False
        self.guesses = Guesses()


class Gateway:
    """Implements core.service.AdapterService and AccountedService, and core.jobs.QueueService."""

    def __init__(
        self,
        catalog: Catalog,
        meter: Meter,
        access: Access = NO_KEYS,
        store: AdapterStore | None = None,
        *,
        records: DatabaseThread | None = None,
        queue: JobQueue | None = None,
        dialect: str = "",
        house: _House | None = None,
    ) -> None:
        """`store` is where adapters are found; None: nowhere. `dialect` is the one that the requests come in.

        `records` is the way to what accounts have used; None: nothing is recorded. `queue` is where requests may wait;
        None: nowhere.
        """
        self._queue = queue
        self._desk_of_queue = None if queue is None else QueueDesk(queue, access)
        self._records = records
        self._catalog = catalog
        self._store = NoAdapterStore() if store is None else store
        self._desk = AdapterDesk(catalog, self._store)
        self._meter = meter
        self._access = access
        self._dialect = dialect
        self._house = _House() if house is None else house

    @property
    def needs_key(self) -> bool:
        return self._access.needs_key

    def shown_in(self, dialect: str) -> "Gateway":
        """The same gateway with only the deployments that this dialect shows."""
        return Gateway(
            self._catalog.shown_in(dialect),
            self._meter,
            self._access,
            self._store,
            records=self._records,
            queue=self._queue,
            dialect=dialect,
            house=self._house,
        )

    def drain(self) -> None:
        """Refuse new requests from now on; those under way go on. Queued ones are left to others, or for later."""
        self._house.draining = True
        if self._queue is not None:
            self._queue.drain()

    async def recognize(self, caller: Caller) -> None:
        await self._recognize(caller, self._dialect)

    async def _recognize(self, caller: Caller, dialect: str | None) -> None:
        try:
            await self._access.recognize(caller, dialect)
        except Unauthenticated as error:
            raise await self._house.guesses.answer(caller, error) from None

    async def check(self, caller: Caller, model: str | None = None) -> None:
        visitor = await self._access.check(caller, self._dialect)
        if model is not None:
            self._resolve(model, visitor)

    async def visible_to(self, caller: Caller) -> "_Visible":
        await self.recognize(caller)
        return _Visible(self, await self._access.identify(caller, self._dialect))

    def models(self) -> list[ServedModel]:
        return self._catalog.models()

    async def count_tokens(self, model: str, prompt: Prompt) -> int:
        return await self._catalog.resolve(model).deployment.engine.count_tokens(prompt)

    async def register_adapter(self, order: AdapterOrder, caller: Caller, *, token: str | None) -> RegisteredAdapter:
        visitor = await self._for_all_models(caller)
        return await self._desk.register(order, token=token, creator=visitor.label)

    async def unregister_adapter(self, name: str, caller: Caller) -> RegisteredAdapter:
        await self._for_all_models(caller)
        return await self._desk.unregister(name)

    async def usage_of(self, caller: Caller) -> RecordedUsage:
        payer = (await self._access.identify(caller, self._dialect)).payer
        if self._records is None or payer is None:
            raise NoAccount("This server records no usage")
        return RecordedUsage(self._records, payer)

    async def generate(
        self, requests: Sequence[GenerationRequest], caller: Caller, *, streamed: bool = False
    ) -> RunningRequest:
        self._refuse_when_draining()
        resolved = self._catalog.resolve(requests[0].model)
        if resolved.adapter is not None:
            requests = [msgspec.structs.replace(request, adapter=resolved.adapter.name) for request in requests]
        measurement = self._meter.begin(resolved.own_name)
        try:
            bill = await self._admit(requests, resolved, caller, streamed=streamed)
        except asyncio.CancelledError:
            measurement.end("cancelled")
            raise
        except Exception as error:
            measurement.end("refused" if isinstance(error, DragomanError) else "failed")
            raise
        return RunningRequest(resolved.deployment.engine, requests, bill, measurement)

    @property
    def keeps_jobs(self) -> bool:
        return self._queue is not None

    async def submit(self, draft: JobDraft, caller: Caller) -> Job:
        self._refuse_when_draining()
        desk = self._queue_desk()
        caller = msgspec.structs.replace(caller, request_id=draft.form.answer_id)
        resolved = self._catalog.resolve(draft.requests[0].model)
        return await desk.submit(draft, await self._order(draft.requests, resolved, caller, streamed=True))

    async def job(self, job_id: str, caller: Caller) -> Job:
        await self._recognize(caller, None)
        return await self._queue_desk().job(job_id, caller)

    async def cancel_job(self, job_id: str, caller: Caller) -> Job:
        await self._recognize(caller, None)
        return await self._queue_desk().cancel(job_id, caller)

    async def follow_job(self, job_id: str, caller: Caller) -> Answering:
        await self._recognize(caller, None)
        return await self._queue_desk().follow(job_id, caller)

    def _queue_desk(self) -> QueueDesk:
        if self._desk_of_queue is None:
            raise BadRequest("This server has no queue: set [accounts] database, or record_usage = true")
        return self._desk_of_queue

    def _refuse_when_draining(self) -> None:
        if self._house.draining:
            raise ShuttingDown("The server is shutting down", retry_after=5)

    async def _admit(
        self, requests: Sequence[GenerationRequest], resolved: Resolved, caller: Caller, *, streamed: bool
    ) -> Bill:
        return await self._access.admit(await self._order(requests, resolved, caller, streamed=streamed))

    async def _order(
        self, requests: Sequence[GenerationRequest], resolved: Resolved, caller: Caller, *, streamed: bool
    ) -> Order:
        prompt_tokens = most = 0
        if self._access.meters:
            prompt_tokens, most = await _most_tokens(resolved.deployment.engine, requests)
        at_once = not streamed or Contest.over(requests) is not None
        return Order(
            caller, self._dialect, requests[0].model, resolved.own_name, prompt_tokens, most, delivered_at_once=at_once
        )

    async def _for_all_models(self, caller: Caller) -> Visitor:
        visitor = await self._access.identify(caller, self._dialect)
        if visitor.models is not None:
            raise Forbidden("This key may not register models")
        return visitor

    def _resolve(self, model: str, visitor: Visitor) -> Resolved:
        resolved = self._catalog.resolve(model)
        if not visitor.may_use(resolved.own_name):
            raise ModelNotFound(model)
        return resolved


class _Visible:
    """Implements core.service.VisibleModels for one visitor."""

    def __init__(self, gateway: Gateway, visitor: Visitor) -> None:
        self._gateway = gateway
        self._visitor = visitor

    def models(self) -> list[ServedModel]:
        return [model for model in self._gateway.models() if self._visitor.may_use(model.id)]

    async def count_tokens(self, model: str, prompt: Prompt) -> int:
        if not any(model in (each.id, *each.aliases) for each in self.models()):
            raise ModelNotFound(model)
        return await self._gateway.count_tokens(model, prompt)


async def _most_tokens(engine: Engine, requests: Sequence[GenerationRequest]) -> tuple[int, int]:
    """The tokens of all prompts, and the most that all their candidates may have. Raises core.errors."""
    prompts = most = 0
    for request in requests:
        count = await engine.count_tokens(request.prompt)
        prompts += count
        most += _most_generated(engine.context_length, request, count)
    return prompts, most


def _most_generated(context_length: int | None, request: GenerationRequest, prompt_tokens: int) -> int:
    if context_length is None:  # It has counted, and died since.
        raise ModelLoading("The model is being loaded", retry_after=1)
    room = context_length - prompt_tokens
    if room < 1:
        raise ContextOverflow(prompt_tokens, context_length, "Shorten the prompt.")
    wanted = request.sampling.max_tokens
    return (request.best_of or request.n) * (room if wanted is None else min(wanted, room))
