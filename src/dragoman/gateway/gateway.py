"""One request's way: route the model's name, admit, run, and see that everything ends."""

import asyncio
from collections.abc import Sequence

import msgspec

from dragoman.accounts.database_thread import DatabaseThread
from dragoman.core.adapters import AdapterOrder, RegisteredAdapter
from dragoman.core.errors import (
    ContextOverflow,
    DragomanError,
    Forbidden,
    ModelLoading,
    ModelNotFound,
    NoAccount,
    ShuttingDown,
    Unauthenticated,
)
from dragoman.core.request import GenerationRequest, Prompt
from dragoman.core.service import Caller, ServedModel
from dragoman.engines.base import AdapterStore, Engine
from dragoman.gateway.access import Access, Bill, Order, Visitor
from dragoman.gateway.adapters import AdapterDesk, NoAdapterStore
from dragoman.gateway.best_of import Contest
from dragoman.gateway.catalog import Catalog, Resolved
from dragoman.gateway.guesses import Guesses
from dragoman.gateway.keys import NO_KEYS
from dragoman.gateway.meter import Meter
from dragoman.gateway.running import RunningRequest
from dragoman.gateway.usage import RecordedUsage


class _House:
    """What the gateways of all dialects share."""

    def __init__(self) -> None:
        self.draining = False
        self.guesses = Guesses()


class Gateway:
    """Implements core.service.AdapterService and AccountedService."""

    def __init__(
        self,
        catalog: Catalog,
        meter: Meter,
        access: Access = NO_KEYS,
        store: AdapterStore | None = None,
        *,
        records: DatabaseThread | None = None,
        dialect: str = "",
        house: _House | None = None,
    ) -> None:
        """`store` is where adapters are found; None: nowhere. `dialect` is the one that the requests come in.

        `records` is the way to what accounts have used; None: nothing is recorded.
        """
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
            dialect=dialect,
            house=self._house,
        )

    def drain(self) -> None:
        """Refuse new requests from now on; those under way go on."""
        self._house.draining = True

    async def recognize(self, caller: Caller) -> None:
        try:
            await self._access.recognize(caller, self._dialect)
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
        if self._house.draining:
            raise ShuttingDown("The server is shutting down", retry_after=5)
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

    async def _admit(
        self, requests: Sequence[GenerationRequest], resolved: Resolved, caller: Caller, *, streamed: bool
    ) -> Bill:
        prompt_tokens = most = 0
        if self._access.meters:
            prompt_tokens, most = await _most_tokens(resolved.deployment.engine, requests)
        at_once = not streamed or Contest.over(requests) is not None
        order = Order(
            caller, self._dialect, requests[0].model, resolved.own_name, prompt_tokens, most, delivered_at_once=at_once
        )
        return await self._access.admit(order)

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
