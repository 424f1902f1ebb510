"""The execution of the queue's jobs on the engines."""

import time
from collections.abc import Sequence

import msgspec

from dragoman.core import logs
from dragoman.core.context import ACCOUNT_OWNER_PREFIX
from dragoman.core.errors import ModelNotFound
from dragoman.core.request import QUEUED_PRIORITY_OFFSET, GenerationRequest
from dragoman.core.tasks import Task
from dragoman.gateway.admission.reservation import UNMETERED
from dragoman.gateway.auth.authenticator import Authenticator
from dragoman.gateway.auth.static_keys import NO_KEYS
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.execution.request_execution import RequestExecution
from dragoman.gateway.routing.catalog import Catalog
from dragoman.jobs.values.rows import ClaimedJob


class GatewayJobExecutor:
    """Implements jobs.worker.executor.JobExecutor with all models, whatever dialects show them."""

    def __init__(self, catalog: Catalog, metrics: RequestMetrics, authenticator: Authenticator = NO_KEYS) -> None:
        """`authenticator` knows the owners of keys that submitted jobs."""
        self._catalog = catalog
        self._metrics = metrics
        self._authenticator = authenticator

    def use_keys(self, authenticator: Authenticator) -> None:
        """Know the owners of other keys from now on."""
        self._authenticator = authenticator

    def models(self) -> list[str]:
        return self._catalog.canonical_names()

    def fingerprint(self, model: str) -> str | None:
        try:
            return self._catalog.resolve_canonical(model).fingerprint
        except ModelNotFound:
            return None

    async def load_model(self, model: str, requests: Sequence[Task]) -> None:
        deployment, request = self._catalog.resolve_canonical(model).deployment, requests[0]
        if isinstance(request, GenerationRequest):
            await deployment.tokenizer.count_tokens(request.prompt)
        else:
            await deployment.count_input_tokens(request)

    def run(self, job: ClaimedJob, requests: Sequence[Task]) -> RequestExecution:
        is_paid = job.owner.startswith(ACCOUNT_OWNER_PREFIX)
        owner = job.owner if is_paid else self._authenticator.owner_of_key(job.owner)
        resolved = self._catalog.resolve_canonical(job.model)
        if resolved.adapter is not None and not resolved.adapter.is_visible_to(owner):
            raise ModelNotFound(requests[0].model)
        timer = self._metrics.start_timer(resolved.metrics_label, requests[0], is_queued=True)
        if job.waited_seconds is not None:
            now = time.monotonic()
            timer.note_wait(now - job.waited_seconds, now)
        timer.note_admission()
        if place := timer.trace or requests[0].trace:
            logs.trace_place.set(place)  # Each attempt runs in a task of its own.
        priority = QUEUED_PRIORITY_OFFSET + job.priority
        queued_requests = [resolved.assign(request, owner=owner, priority=priority) for request in requests]
        if timer.trace:
            queued_requests = [msgspec.structs.replace(request, trace=timer.trace) for request in queued_requests]
        # The queue settles its jobs itself.
        return RequestExecution(resolved.deployment, queued_requests, UNMETERED, timer)
