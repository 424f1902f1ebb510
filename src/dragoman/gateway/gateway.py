"""The facade that dialects call: authenticate, resolve the model, admit, execute."""

import asyncio
import contextlib
import copy
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager

import msgspec

from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core.adapters import AdapterSpec, RegisteredAdapter
from dragoman.core.context import Caller, account_owner
from dragoman.core.errors import (
    BadRequest,
    ContextOverflow,
    DragomanError,
    EngineFailed,
    Forbidden,
    InsufficientBalance,
    ModelNotFound,
    NoAccount,
    ShuttingDown,
    Unauthenticated,
)
from dragoman.core.jobs import Job, JobDraft
from dragoman.core.limits import is_large_task
from dragoman.core.models import ServedModel, TokenizedPrompt
from dragoman.core.money import InvalidAmount
from dragoman.core.request import GenerationRequest, Prompt
from dragoman.core.services import EventStream
from dragoman.core.tasks import Task
from dragoman.core.turns import Turns
from dragoman.engines.base import AdapterStore
from dragoman.gateway.account_usage import RecordedUsage
from dragoman.gateway.admission.controller import AdmissionController, AdmissionRequest
from dragoman.gateway.admission.recording import UNMETERED_ADMISSION
from dragoman.gateway.admission.reservation import Reservation
from dragoman.gateway.admission.token_bounds import TokenBounds, token_bounds
from dragoman.gateway.auth.authenticator import Authenticator, Principal
from dragoman.gateway.auth.static_keys import NO_KEYS
from dragoman.gateway.auth.throttle import AuthFailureLimiter
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.execution.request_execution import RequestExecution, ranks_candidates
from dragoman.gateway.remote_images import ImageFetcher, has_remote_images
from dragoman.gateway.routing.adapters import AdapterRegistrar, NoAdapterStore, RegistrationRules
from dragoman.gateway.routing.catalog import Catalog, ResolvedModel
from dragoman.gateway.routing.fallbacks import NO_FALLBACKS, Fallbacks, can_answer, fallbacks_of
from dragoman.gateway.routing.visible_models import PrincipalModels
from dragoman.jobs.service.queue import JobQueue
from dragoman.jobs.values.rows import Submission

_MAX_PREPARING = 64
"""Accounts whose large requests are prepared at the same time."""

_NO_TURN = contextlib.nullcontext()

_UNCOUNTED = TokenBounds(0, 0)

_MAX_WAITING_OF_OWNER = 64
"""Large requests of one account that wait to be prepared."""


class Gateway:
    """Implements core.services.AdapterService and UsageReportingService, and core.services.QueueService."""

    def __init__(
        self,
        catalog: Catalog,
        metrics: RequestMetrics,
        authenticator: Authenticator = NO_KEYS,
        admission: AdmissionController = UNMETERED_ADMISSION,
        *,
        adapter_store: AdapterStore | None = None,
        registration_rules: RegistrationRules | None = None,
        usage_database: DatabaseThread | None = None,
        queue: JobQueue | None = None,
        images: ImageFetcher | None = None,
    ) -> None:
        """Usage is read from `usage_database`; None: none is recorded. `images` None: none are fetched."""
        self._catalog = catalog
        self._metrics = metrics
        self._authenticator = authenticator
        self._admission = admission
        self._adapter_store = NoAdapterStore() if adapter_store is None else adapter_store
        self._registration_rules = registration_rules or RegistrationRules()
        self._usage_database = usage_database
        self._queue = queue
        self._images = images
        self.auth_failures = AuthFailureLimiter()
        """Counts wrong keys, on the routes of dialects and on all others."""
        self._preparation = Turns(_MAX_PREPARING, _MAX_WAITING_OF_OWNER)
        """The turns of accounts to have large prompts rendered and tokenized before their admission."""
        self._draining = asyncio.Event()
        self._dialect = ""

    def for_dialect(self, dialect: str) -> "Gateway":
        """Return a view of this gateway that has only the deployments of one dialect."""
        view = copy.copy(self)
        view._dialect, view._catalog = dialect, self._catalog.for_dialect(dialect)
        return view

    def with_keys(self, keys: Authenticator, rules: RegistrationRules) -> "Gateway":
        """Return a view of this gateway with other keys and other rules for adapters. Running requests keep theirs."""
        view = copy.copy(self)
        view._authenticator, view._registration_rules = keys, rules
        return view

    def drain(self) -> None:
        """Refuse new requests from now on. Running ones continue, queued ones are left to other processes."""
        self._draining.set()
        if self._queue is not None:
            self._queue.drain()

    @property
    def needs_key(self) -> bool:
        return self._authenticator.needs_key

    async def reject_unknown_key(self, caller: Caller) -> None:
        await self._reject_unknown_key(caller, self._dialect)

    async def check_access(self, caller: Caller, model: str | None = None) -> None:
        principal = await self._authenticator.check_access(caller, self._dialect)
        if model is not None:
            PrincipalModels(self._catalog, principal).resolve(model)

    def preparation_turn(self, requests: Sequence[Task], caller: Caller) -> AbstractAsyncContextManager[None]:
        if self._admission.was_refused(caller) or any(map(is_large_task, requests)):
            return self._checked_turn(requests, caller)
        return _NO_TURN

    @contextlib.asynccontextmanager
    async def _checked_turn(self, requests: Sequence[Task], caller: Caller) -> AsyncGenerator[None]:
        async with self._preparation.turn(self._authenticator.turn_owner(caller)):
            await self._check_admission(requests, caller)
            yield

    @contextlib.asynccontextmanager
    async def counting_turn(self, caller: Caller) -> AsyncGenerator[None]:
        async with self._preparation.turn(self._authenticator.turn_owner(caller)):
            await self._authenticator.count_request(caller, self._dialect)
            yield

    async def visible_to(self, caller: Caller) -> PrincipalModels:
        await self.reject_unknown_key(caller)
        return PrincipalModels(self._catalog, await self._authenticate(caller), self._images)

    def models(self) -> list[ServedModel]:
        return self._catalog.models()

    def find_model(self, name: str) -> ServedModel | None:
        return self._catalog.find_model(name)

    async def count_tokens(self, model: str, prompt: Prompt) -> int:
        return (await self._catalog.resolve(model).deployment.count_tokens(prompt)).tokens

    async def tokenize(self, model: str, prompt: Prompt) -> TokenizedPrompt:
        return await self._catalog.resolve(model).deployment.tokenizer_for(prompt).tokenize(prompt)

    async def detokenize(self, model: str, token_ids: Sequence[int]) -> str:
        return await self._catalog.resolve(model).deployment.tokenizer.detokenize(token_ids)

    async def with_images(self, requests: Sequence[Task], caller: Caller) -> Sequence[Task]:
        return await self._fetch_images(requests, await self._resolve(requests[0].model, caller), caller)

    async def generate(self, requests: Sequence[Task], caller: Caller, *, streamed: bool = False) -> RequestExecution:
        self._refuse_when_draining()
        resolved = await self._resolve(requests[0].model, caller)
        timer = self._metrics.start_timer(resolved.metrics_label, requests[0], caller, streamed=streamed)
        fallbacks = NO_FALLBACKS
        if resolved.has_fallbacks:
            fallbacks = fallbacks_of(resolved.deployment, self._catalog)
        try:
            if self._images is not None:
                requests = await self._fetch_images(requests, resolved, caller)
            try:
                reservation = await self._admit(requests, resolved, caller, fallbacks.names, streamed=streamed)
            except (ContextOverflow, EngineFailed) as error:
                resolved, reservation = await self._admit_other(error, requests, caller, fallbacks, streamed=streamed)
                fallbacks = NO_FALLBACKS
        except asyncio.CancelledError:
            timer.end("cancelled")
            raise
        except Exception as error:
            timer.end("refused" if isinstance(error, DragomanError) else "failed")
            raise
        timer.note_admission()
        owner = self._owner(reservation.account_id, caller)
        if owner or resolved.adapter is not None or not streamed:
            requests = [resolved.assign(request, owner=owner, is_buffered=not streamed) for request in requests]
        if resolved.deployment.router is not None or fallbacks is not NO_FALLBACKS:
            requests = [_for_replicas(request, caller, timer.trace or caller.trace) for request in requests]
        return RequestExecution(
            resolved.deployment, requests, reservation, timer, fallbacks=fallbacks, deadline=caller.deadline
        )

    async def usage_of(self, caller: Caller) -> RecordedUsage:
        billing_account = (await self._authenticate(caller)).billing_account
        if self._usage_database is None or billing_account is None:
            raise NoAccount("This server records no usage")
        return RecordedUsage(self._usage_database, billing_account)

    async def register_adapter(self, spec: AdapterSpec, caller: Caller, *, token: str | None) -> RegisteredAdapter:
        principal = await self._authenticator.check_access(caller, self._dialect)
        _require_all_models(principal)
        self._registration_rules.require_allowed()
        _require_balance(principal)
        registrar = AdapterRegistrar(self._catalog, self._adapter_store, self._registration_rules)
        return await registrar.register(spec, token=token, creator=principal.label, owner=principal.owner)

    async def unregister_adapter(self, name: str, caller: Caller) -> RegisteredAdapter:
        principal = await self._authenticate(caller)
        _require_all_models(principal)
        return await AdapterRegistrar(self._catalog, self._adapter_store).unregister(name, principal.owner)

    @property
    def has_queue(self) -> bool:
        return self._queue is not None

    async def submit(self, draft: JobDraft, caller: Caller) -> Job:
        self._refuse_when_draining()
        queue = self._require_queue()
        caller = msgspec.structs.replace(caller, request_id=draft.stored_request.answer_id)
        principal = await self._authenticate(caller)
        resolved = self._catalog.resolve(draft.requests[0].model, principal.owner)
        fetched = await self._fetch_images(draft.requests, resolved, caller)
        traced = tuple(msgspec.structs.replace(request, trace=caller.trace) for request in fetched)
        draft = msgspec.structs.replace(draft, requests=traced)
        admission_request = await self._admission_request(draft.requests, resolved, caller, streamed=True)
        submission = Submission(draft, self._admission.prepare(admission_request), _job_owner(principal, caller))
        try:
            return await queue.submit(submission)
        except (DragomanError, InvalidAmount) as error:
            raise self._admission.in_client_terms(error, admission_request) from None

    async def job(self, job_id: str, caller: Caller) -> Job:
        owner = await self.owner(caller)
        return await self._require_queue().job(job_id, owner)

    async def cancel_job(self, job_id: str, caller: Caller) -> Job:
        owner = await self.owner(caller)
        return await self._require_queue().cancel(job_id, owner)

    async def delete_job(self, job_id: str, caller: Caller) -> None:
        await self._require_queue().delete(job_id, await self.owner(caller))

    async def follow_job(self, job_id: str, caller: Caller) -> EventStream:
        owner = await self.owner(caller)
        return await self._require_queue().follow(job_id, owner)

    async def owner(self, caller: Caller) -> str:
        # In whatever dialect a job was submitted, its owner sees it in all of them.
        await self._reject_unknown_key(caller, None)
        return _job_owner(await self._authenticator.authenticate(caller, None), caller)

    def _owner(self, account_id: int | None, caller: Caller) -> str:
        """Return whom the caller's requests are computed for."""
        if account_id is not None:
            return account_owner(account_id)
        return self._authenticator.owner_of_key(caller.key_digest) if self._authenticator.needs_key else ""

    def _require_queue(self) -> JobQueue:
        if self._queue is None:
            raise BadRequest("This server has no queue: set [accounts] database, or record_usage = true")
        return self._queue

    def _refuse_when_draining(self) -> None:
        if self._draining.is_set():
            raise ShuttingDown("The server is shutting down", retry_after=5)

    async def _reject_unknown_key(self, caller: Caller, dialect: str | None) -> None:
        if not self._authenticator.needs_key:
            return
        try:
            await self._authenticator.reject_unknown_key(caller, dialect)
        except Unauthenticated as error:
            raise await self.auth_failures.throttle(caller, error) from None

    async def _authenticate(self, caller: Caller) -> Principal:
        return await self._authenticator.authenticate(caller, self._dialect)

    async def _resolve(self, model: str, caller: Caller) -> ResolvedModel:
        """Resolve a name or alias for the caller. Raises ModelNotFound or Unauthenticated."""
        try:
            return self._catalog.resolve(model)
        except ModelNotFound:
            return self._catalog.resolve(model, (await self._authenticate(caller)).owner)

    async def _check_admission(self, requests: Sequence[Task], caller: Caller) -> None:
        """Refuse requests that would be refused at any size. Raises core.errors."""
        self._refuse_when_draining()
        resolved = await self._resolve(requests[0].model, caller)
        try:
            tokens = TokenBounds(1, 1)
            await self._admission.check(self._sized_request(requests, resolved, caller, streamed=True, tokens=tokens))
        except DragomanError:
            self._metrics.start_timer(resolved.metrics_label).end("refused")
            raise

    async def _fetch_images(self, requests: Sequence[Task], resolved: ResolvedModel, caller: Caller) -> Sequence[Task]:
        """Put images in place of their addresses. Nothing is fetched for requests that are refused in any case."""
        if self._images is None or not any(map(has_remote_images, requests)):
            return requests
        for request in requests:
            resolved.deployment.candidates(request)
        tokens = TokenBounds(1, 1)
        await self._admission.check(self._sized_request(requests, resolved, caller, streamed=True, tokens=tokens))
        return await self._images.with_images(requests)

    async def _admit(
        self,
        requests: Sequence[Task],
        resolved: ResolvedModel,
        caller: Caller,
        fallback_models: tuple[str, ...] = (),
        *,
        streamed: bool,
    ) -> Reservation:
        admission_request = await self._admission_request(requests, resolved, caller, streamed=streamed)
        if fallback_models:
            admission_request = msgspec.structs.replace(admission_request, fallback_models=fallback_models)
        return await self._admission.admit(admission_request)

    async def _admit_other(
        self,
        error: ContextOverflow | EngineFailed,
        requests: Sequence[Task],
        caller: Caller,
        fallbacks: Fallbacks,
        *,
        streamed: bool,
    ) -> tuple[ResolvedModel, Reservation]:
        """Admit prompts that are too long, or that nobody can count, to the first fallback that the key may use.

        Raises the error if there is none.
        """
        others = fallbacks.on_overflow if isinstance(error, ContextOverflow) else fallbacks.on_failure
        for deployment in others:
            resolved = ResolvedModel(deployment, None)
            with contextlib.suppress(ContextOverflow, EngineFailed, ModelNotFound):
                if can_answer(deployment, requests):
                    return resolved, await self._admit(requests, resolved, caller, streamed=streamed)
        raise error

    async def _admission_request(
        self, requests: Sequence[Task], resolved: ResolvedModel, caller: Caller, *, streamed: bool
    ) -> AdmissionRequest:
        for request in requests:
            resolved.deployment.candidates(request)  # Refuses what no replica can do.
        tokens = _UNCOUNTED
        if self._admission.needs_token_counts:
            tokens = await token_bounds(resolved.deployment, requests)
        return self._sized_request(requests, resolved, caller, streamed=streamed, tokens=tokens)

    def _sized_request(
        self,
        requests: Sequence[Task],
        resolved: ResolvedModel,
        caller: Caller,
        *,
        streamed: bool,
        tokens: TokenBounds,
    ) -> AdmissionRequest:
        """Return the requests as one to be admitted."""
        return AdmissionRequest(
            caller=caller,
            dialect=self._dialect,
            model=requests[0].model,
            billed_model=resolved.canonical_name,
            base_model=resolved.base_model,
            prompt_tokens=tokens.prompt_tokens,
            max_completion_tokens=tokens.max_completion_tokens,
            is_buffered=not streamed or ranks_candidates(requests[0]),
        )


def _for_replicas(request: Task, caller: Caller, trace: str) -> Task:
    """Return the request with what the choice of a replica and the logs of other servers need of its caller."""
    if not isinstance(request, GenerationRequest):
        return msgspec.structs.replace(request, trace=trace)
    affinity = caller.session or request.affinity
    return msgspec.structs.replace(request, affinity=affinity, request_id=caller.request_id, trace=trace)


def _job_owner(principal: Principal, caller: Caller) -> str:
    """Return who owns the caller's jobs: the account that pays, or without accounts the key."""
    account = principal.billing_account
    return caller.key_digest if account is None else account_owner(account.account_id)


def _require_all_models(principal: Principal) -> None:
    if principal.models is not None:
        raise Forbidden("This key may not register models")


def _require_balance(principal: Principal) -> None:
    """Raise InsufficientBalance for an account that cannot pay for what it would occupy."""
    account = principal.billing_account
    if account is not None and account.balance <= 0:
        raise InsufficientBalance("Insufficient balance", limit=account.balance, used=0, hold=0)
