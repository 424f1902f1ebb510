"""One request's way: route the model's name, admit, run, and see that everything ends."""

import asyncio
from collections.abc import Sequence

import msgspec

from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core.adapters import AdapterSpec, RegisteredAdapter
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
from dragoman.core.service import Caller, EventStream, ServedModel
from dragoman.engines.base import AdapterStore, Engine
from dragoman.gateway.account_usage import RecordedUsage
from dragoman.gateway.admission.controller import AccessController, AdmissionRequest, Principal, Reservation
from dragoman.gateway.auth.static_keys import NO_KEYS
from dragoman.gateway.auth.throttle import AuthFailureLimiter
from dragoman.gateway.execution.best_of import BestOfSelector
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.execution.queued import JobService
from dragoman.gateway.execution.request_execution import RequestExecution
from dragoman.gateway.routing.adapters import AdapterRegistrar, NoAdapterStore
from dragoman.gateway.routing.catalog import Catalog, ResolvedModel
from dragoman.jobs.service.queue import JobQueue


class _GatewayState:
    """What the gateways of all dialects share."""

    def __init__(self) -> None:
        self.is_draining = False
        self.auth_failures = AuthFailureLimiter()


class Gateway:
    """Implements core.service.AdapterService and UsageReportingService, and core.jobs.QueueService."""

    def __init__(
        self,
        catalog: Catalog,
        metrics: RequestMetrics,
        access: AccessController = NO_KEYS,
        adapter_store: AdapterStore | None = None,
        *,
        usage_database: DatabaseThread | None = None,
        queue: JobQueue | None = None,
        dialect: str = "",
        state: _GatewayState | None = None,
    ) -> None:
        """`store` is where adapters are found; None: nowhere. `dialect` is the one that the requests come in.

        `records` is the way to what accounts have used; None: nothing is recorded. `queue` is where requests may wait;
        None: nowhere.
        """
        self._queue = queue
        self._job_service = None if queue is None else JobService(queue, access)
        self._usage_database = usage_database
        self._catalog = catalog
        self._adapter_store = NoAdapterStore() if adapter_store is None else adapter_store
        self._adapter_registrar = AdapterRegistrar(catalog, self._adapter_store)
        self._metrics = metrics
        self._access = access
        self._dialect = dialect
        self._state = _GatewayState() if state is None else state

    @property
    def needs_key(self) -> bool:
        return self._access.needs_key

    def for_dialect(self, dialect: str) -> "Gateway":
        """The same gateway with only the deployments that this dialect shows."""
        return Gateway(
            self._catalog.for_dialect(dialect),
            self._metrics,
            self._access,
            self._adapter_store,
            usage_database=self._usage_database,
            queue=self._queue,
            dialect=dialect,
            state=self._state,
        )

    def drain(self) -> None:
        """Refuse new requests from now on; those under way go on. Queued ones are left to others, or for later."""
        self._state.is_draining = True
        if self._queue is not None:
            self._queue.drain()

    async def reject_unknown_key(self, caller: Caller) -> None:
        await self._reject_unknown_key(caller, self._dialect)

    async def _reject_unknown_key(self, caller: Caller, dialect: str | None) -> None:
        try:
            await self._access.reject_unknown_key(caller, dialect)
        except Unauthenticated as error:
            raise await self._state.auth_failures.throttle(caller, error) from None

    async def check_access(self, caller: Caller, model: str | None = None) -> None:
        principal = await self._access.check_access(caller, self._dialect)
        if model is not None:
            self._resolve(model, principal)

    async def visible_to(self, caller: Caller) -> "_PrincipalModels":
        await self.reject_unknown_key(caller)
        return _PrincipalModels(self, await self._access.authenticate(caller, self._dialect))

    def models(self) -> list[ServedModel]:
        return self._catalog.models()

    async def count_tokens(self, model: str, prompt: Prompt) -> int:
        return await self._catalog.resolve(model).deployment.engine.count_tokens(prompt)

    async def register_adapter(self, spec: AdapterSpec, caller: Caller, *, token: str | None) -> RegisteredAdapter:
        principal = await self._require_all_models(caller)
        return await self._adapter_registrar.register(spec, token=token, creator=principal.label)

    async def unregister_adapter(self, name: str, caller: Caller) -> RegisteredAdapter:
        await self._require_all_models(caller)
        return await self._adapter_registrar.unregister(name)

    async def usage_of(self, caller: Caller) -> RecordedUsage:
        billing_account = (await self._access.authenticate(caller, self._dialect)).billing_account
        if self._usage_database is None or billing_account is None:
            raise NoAccount("This server records no usage")
        return RecordedUsage(self._usage_database, billing_account)

    async def generate(
        self, requests: Sequence[GenerationRequest], caller: Caller, *, streamed: bool = False
    ) -> RequestExecution:
        self._refuse_when_draining()
        resolved = self._catalog.resolve(requests[0].model)
        if resolved.adapter is not None:
            requests = [msgspec.structs.replace(request, adapter=resolved.adapter.name) for request in requests]
        timer = self._metrics.start_timer(resolved.canonical_name)
        try:
            reservation = await self._admit(requests, resolved, caller, streamed=streamed)
        except asyncio.CancelledError:
            timer.end("cancelled")
            raise
        except Exception as error:
            timer.end("refused" if isinstance(error, DragomanError) else "failed")
            raise
        return RequestExecution(resolved.deployment.engine, requests, reservation, timer)

    @property
    def has_queue(self) -> bool:
        return self._queue is not None

    async def submit(self, draft: JobDraft, caller: Caller) -> Job:
        self._refuse_when_draining()
        job_service = self._require_job_service()
        caller = msgspec.structs.replace(caller, request_id=draft.stored_request.answer_id)
        resolved = self._catalog.resolve(draft.requests[0].model)
        return await job_service.submit(
            draft, await self._admission_request(draft.requests, resolved, caller, streamed=True)
        )

    async def job(self, job_id: str, caller: Caller) -> Job:
        await self._reject_unknown_key(caller, None)
        return await self._require_job_service().job(job_id, caller)

    async def cancel_job(self, job_id: str, caller: Caller) -> Job:
        await self._reject_unknown_key(caller, None)
        return await self._require_job_service().cancel(job_id, caller)

    async def follow_job(self, job_id: str, caller: Caller) -> EventStream:
        await self._reject_unknown_key(caller, None)
        return await self._require_job_service().follow(job_id, caller)

    def _require_job_service(self) -> JobService:
        if self._job_service is None:
            raise BadRequest("This server has no queue: set [accounts] database, or record_usage = true")
        return self._job_service

    def _refuse_when_draining(self) -> None:
        if self._state.is_draining:
            raise ShuttingDown("The server is shutting down", retry_after=5)

    async def _admit(
        self, requests: Sequence[GenerationRequest], resolved: ResolvedModel, caller: Caller, *, streamed: bool
    ) -> Reservation:
        return await self._access.admit(await self._admission_request(requests, resolved, caller, streamed=streamed))

    async def _admission_request(
        self, requests: Sequence[GenerationRequest], resolved: ResolvedModel, caller: Caller, *, streamed: bool
    ) -> AdmissionRequest:
        prompt_tokens = max_completion_tokens = 0
        if self._access.needs_token_counts:
            prompt_tokens, max_completion_tokens = await _token_bounds(resolved.deployment.engine, requests)
        is_buffered = not streamed or BestOfSelector.for_requests(requests) is not None
        return AdmissionRequest(
            caller,
            self._dialect,
            requests[0].model,
            resolved.canonical_name,
            prompt_tokens,
            max_completion_tokens,
            is_buffered=is_buffered,
        )

    async def _require_all_models(self, caller: Caller) -> Principal:
        principal = await self._access.authenticate(caller, self._dialect)
        if principal.models is not None:
            raise Forbidden("This key may not register models")
        return principal

    def _resolve(self, model: str, principal: Principal) -> ResolvedModel:
        resolved = self._catalog.resolve(model)
        if not principal.may_use(resolved.canonical_name):
            raise ModelNotFound(model)
        return resolved


class _PrincipalModels:
    """Implements core.service.VisibleModels for one visitor."""

    def __init__(self, gateway: Gateway, principal: Principal) -> None:
        self._gateway = gateway
        self._principal = principal

    def models(self) -> list[ServedModel]:
        return [model for model in self._gateway.models() if self._principal.may_use(model.id)]

    async def count_tokens(self, model: str, prompt: Prompt) -> int:
        if not any(model in (each.id, *each.aliases) for each in self.models()):
            raise ModelNotFound(model)
        return await self._gateway.count_tokens(model, prompt)


async def _token_bounds(engine: Engine, requests: Sequence[GenerationRequest]) -> tuple[int, int]:
    """The tokens of all prompts, and the most that all their candidates may have. Raises core.errors."""
    prompts = max_completion_tokens = 0
    for request in requests:
        count = await engine.count_tokens(request.prompt)
        prompts += count
        max_completion_tokens += _max_completion_tokens(engine.context_length, request, count)
    return prompts, max_completion_tokens


def _max_completion_tokens(context_length: int | None, request: GenerationRequest, prompt_tokens: int) -> int:
    if context_length is None:  # It has counted, and died since.
        raise ModelLoading("The model is being loaded", retry_after=1)
    available = context_length - prompt_tokens
    if available < 1:
        raise ContextOverflow(prompt_tokens, context_length, "Shorten the prompt.")
    max_tokens = request.sampling.max_tokens
    return (request.best_of or request.n) * (available if max_tokens is None else min(max_tokens, available))
