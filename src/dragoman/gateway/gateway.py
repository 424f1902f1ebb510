"""One request's way: route the model's name, run its prompts, measure, and see that everything ends."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

import msgspec

from dragoman.core.adapters import AdapterOrder, RegisteredAdapter
from dragoman.core.errors import DragomanError, EngineFailed, ShuttingDown
from dragoman.core.events import Event, Usage
from dragoman.core.request import GenerationRequest, Prompt
from dragoman.core.service import ServedModel, UsageService
from dragoman.engines.base import AdapterStore, Engine
from dragoman.gateway.adapters import AdapterDesk, NoAdapterStore
from dragoman.gateway.best_of import Contest, as_candidates
from dragoman.gateway.catalog import Catalog
from dragoman.gateway.keys import NO_KEYS, KeyRing
from dragoman.gateway.meter import Meter

_EVENTS_AHEAD = 64
"""Events of several prompts that may lie between the engines and a slow client."""


class _Gate:
    """Whether new requests are still taken, the same for all dialects."""

    draining = False


class Gateway:
    """Implements core.service.AdapterService and AccountedService."""

    def __init__(
        self,
        catalog: Catalog,
        meter: Meter,
        keys: KeyRing = NO_KEYS,
        gate: "_Gate | None" = None,
        store: AdapterStore | None = None,
        usage: UsageService | None = None,
    ) -> None:
        """Without keys, everybody may come in. `store` is where adapters are found; None: nowhere.

        `usage` tells callers what they have used; None: nobody knows.
        """
        self.usage = usage
        self._catalog = catalog
        self._store = NoAdapterStore() if store is None else store
        self._desk = AdapterDesk(catalog, self._store)
        self._meter = meter
        self._keys = keys
        self._gate = _Gate() if gate is None else gate

    @property
    def needs_key(self) -> bool:
        return bool(self._keys)

    def authenticate(self, key: str | None) -> None:
        if self._keys:
            self._keys.check(key)

    def shown_in(self, dialect: str) -> "Gateway":
        """The same gateway with only the deployments that this dialect shows."""
        return Gateway(self._catalog.shown_in(dialect), self._meter, self._keys, self._gate, self._store, self.usage)

    def drain(self) -> None:
        """Refuse new requests from now on; those under way go on."""
        self._gate.draining = True

    def models(self) -> list[ServedModel]:
        return self._catalog.models()

    async def count_tokens(self, model: str, prompt: Prompt) -> int:
        return await self._catalog.resolve(model).deployment.engine.count_tokens(prompt)

    async def register_adapter(self, order: AdapterOrder, *, token: str | None, key: str | None) -> RegisteredAdapter:
        return await self._desk.register(order, token=token, creator=self._keys.label(key))

    async def unregister_adapter(self, name: str) -> RegisteredAdapter:
        return await self._desk.unregister(name)

    async def generate(self, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Event]:
        if self._gate.draining:
            raise ShuttingDown("The server is shutting down", retry_after=5)
        deployment, adapter = self._catalog.resolve(requests[0].model)
        if adapter is not None:
            requests = [msgspec.structs.replace(request, adapter=adapter.name) for request in requests]
        measurement = self._meter.begin(deployment.name if adapter is None else adapter.name)
        contest = Contest.over(requests)
        run = requests if contest is None else [as_candidates(request) for request in requests]
        try:
            async with contextlib.aclosing(_run(deployment.engine, run)) as events:
                async for event in events:
                    measurement.observe(event)
                    if contest is None:
                        yield event
                        continue
                    for chosen in contest.feed(event):
                        yield chosen
        except (asyncio.CancelledError, GeneratorExit):
            measurement.end("cancelled")
            raise
        except Exception as error:
            refused = isinstance(error, DragomanError) and not isinstance(error, EngineFailed)
            measurement.end("refused" if refused else "failed")
            raise
        measurement.end("ok")


def _run(engine: Engine, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Event]:
    return engine.generate(requests[0]) if len(requests) == 1 else _run_together(engine, requests)


async def _run_together(engine: Engine, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Event]:
    """The events of several prompts as those of one request: indices moved apart, usages added up."""
    queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue(_EVENTS_AHEAD)
    usages: list[Usage] = []
    running = len(requests)

    async def pump(first_index: int, request: GenerationRequest) -> None:
        try:
            async with contextlib.aclosing(engine.generate(request)) as events:
                async for event in events:
                    await queue.put(_moved(event, first_index))
            await queue.put(None)
        except Exception as error:  # noqa: BLE001 - raised again below, where the request is
            await queue.put(error)

    tasks = [asyncio.create_task(pump(number * request.n, request)) for number, request in enumerate(requests)]
    try:
        while running:
            match await queue.get():
                case None:
                    running -= 1
                case Exception() as error:
                    raise error
                case Usage() as usage:
                    usages.append(usage)
                case event:
                    yield event
        if len(usages) == len(requests):
            yield Usage(
                sum(usage.prompt_tokens for usage in usages),
                sum(usage.completion_tokens for usage in usages),
                sum(usage.cached_tokens for usage in usages),
                sum(usage.reasoning_tokens for usage in usages),
            )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _moved(event: Event, first_index: int) -> Event:
    match event:
        case Usage():
            return event
        case _:
            return msgspec.structs.replace(event, index=first_index + event.index)
