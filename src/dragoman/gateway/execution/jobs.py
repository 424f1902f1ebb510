"""The execution of the queue's jobs on the engines."""

from collections.abc import Sequence

import msgspec

from dragoman.core.context import ACCOUNT_OWNER_PREFIX
from dragoman.core.models import find_model
from dragoman.core.request import QUEUED_PRIORITY_OFFSET, GenerationRequest
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

    def models(self) -> list[str]:
        return [model.id for model in self._catalog.models()]

    def fingerprint(self, model: str) -> str | None:
        served = find_model(self._catalog.models(), model)
        return None if served is None else served.fingerprint

    async def load_model(self, model: str, requests: Sequence[GenerationRequest]) -> None:
        await self._catalog.resolve(model).deployment.engine.count_tokens(requests[0].prompt)

    def run(self, job: ClaimedJob, requests: Sequence[GenerationRequest]) -> RequestExecution:
        resolved = self._catalog.resolve(job.model)
        adapter = None if resolved.adapter is None else resolved.adapter.name
        is_paid = job.owner.startswith(ACCOUNT_OWNER_PREFIX)
        owner = job.owner if is_paid else self._authenticator.owner_of_key(job.owner)
        priority = QUEUED_PRIORITY_OFFSET + job.priority
        queued_requests = [
            msgspec.structs.replace(request, adapter=adapter, priority=priority, owner=owner) for request in requests
        ]
        timer = self._metrics.start_timer(resolved.canonical_name)
        # The queue settles its jobs itself.
        return RequestExecution(resolved.deployment.engine, queued_requests, UNMETERED, timer)
