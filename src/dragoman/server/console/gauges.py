"""The state of the server at one moment: what its engines do, and how many tokens come a second."""

import asyncio
import time
from collections import deque
from collections.abc import Collection

import msgspec
from prometheus_client import CollectorRegistry

from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.server.console.services import ConsoleServices
from dragoman.server.metrics import SharedCounts, engine_statistics

_PIECES = ("dragoman_time_to_first_token_seconds_count", "dragoman_inter_token_latency_seconds_count")
"""Counters of the pieces that answers are sent in while they are generated, nearly always one token each. The counter
of tokens itself counts a request at its end."""

_WINDOW_SECONDS = 10.0
"""Time over which tokens a second are averaged."""

_REUSE_SECONDS = 0.5
"""How long one sample serves all pages."""


class ReplicaGauges(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one engine of a model."""

    name: str
    state: str
    """As that of a model, or `ejected`, `on trial` or `draining`."""
    running: int
    waiting: int


class ModelGauges(msgspec.Struct, frozen=True, kw_only=True):
    """The state of all engines of a model together."""

    name: str
    state: str
    """`ready`, `loading`, `idle` or `failed`."""
    failure: str | None
    running: int
    waiting: int
    kv_cells_used: int
    kv_cells_cached: int
    kv_cells_total: int
    replicas: tuple[ReplicaGauges, ...]


class Gauges(msgspec.Struct, frozen=True, kw_only=True):
    """The state of all engines together."""

    running: int
    waiting: int
    tokens_per_second: float
    models: tuple[ModelGauges, ...]

    @property
    def ready_models(self) -> int:
        """How many models would serve a request now."""
        return sum(model.state in ("ready", "idle") for model in self.models)


class GaugeSampler:
    """Samples the engines, and the counts of all workers."""

    def __init__(self, services: ConsoleServices) -> None:
        self._services = services
        sources = services.metrics
        self._shared = None if sources.directory is None else SharedCounts(sources.directory)
        self._tokens: deque[tuple[float, float]] = deque(maxlen=64)
        self._last: Gauges | None = None
        self._sampled_at = -_REUSE_SECONDS
        self._lock = asyncio.Lock()

    async def sample(self) -> Gauges:
        """Return the state now; engines that do not answer count as loading or failed."""
        async with self._lock:
            if self._last is None or time.monotonic() >= self._sampled_at + _REUSE_SECONDS:
                self._last = await self._sample()
                self._sampled_at = time.monotonic()
            return self._last

    async def _sample(self) -> Gauges:
        deployments = self._services.catalog.deployments
        models = tuple(await asyncio.gather(*map(_model_gauges, deployments)))
        return Gauges(
            running=sum(model.running for model in models),
            waiting=sum(model.waiting for model in models),
            tokens_per_second=self._rate(await asyncio.to_thread(self._count_tokens)),
            models=models,
        )

    def counts(self) -> CollectorRegistry:
        """Return the counts of all workers. Blocks: they are in files."""
        return (self._shared.registry() if self._shared is not None else None) or self._services.metrics.registry

    def _count_tokens(self) -> float:
        return sum_of_samples(self.counts(), _PIECES)

    def _rate(self, tokens: float) -> float:
        now = time.monotonic()
        self._tokens.append((now, tokens))
        while len(self._tokens) > 2 and self._tokens[1][0] <= now - _WINDOW_SECONDS:
            self._tokens.popleft()
        first_at, first = self._tokens[0]
        return max(0.0, tokens - first) / (now - first_at) if now > first_at else 0.0


def sum_of_samples(registry: CollectorRegistry, names: Collection[str]) -> float:
    """Add up all samples of some counters, whatever their labels."""
    return sum(sample.value for metric in registry.collect() for sample in metric.samples if sample.name in names)


async def _model_gauges(deployment: Deployment) -> ModelGauges:
    engines = deployment.engines
    reports = await asyncio.gather(*map(engine_statistics, engines))
    answering = [report for report in reports if report is not None]

    def total(name: str) -> int:
        return sum(getattr(report, name) for report in answering)

    return ModelGauges(
        name=deployment.name,
        state=_state(deployment.ready, deployment.failure, bool(answering)),
        failure=deployment.failure,
        running=total("running"),
        waiting=total("waiting"),
        kv_cells_used=total("kv_cells_used"),
        kv_cells_cached=total("kv_cells_cached"),
        kv_cells_total=total("kv_cells_total"),
        replicas=tuple(
            ReplicaGauges(
                name=replica.name,
                state=_replica_state(deployment, replica, answers=report is not None),
                running=0 if report is None else report.running,
                waiting=0 if report is None else report.waiting,
            )
            for replica, report in zip(deployment.replicas, reports, strict=True)
        ),
    )


def _replica_state(deployment: Deployment, replica: Replica, *, answers: bool) -> str:
    router = deployment.router
    if router is not None and router.health.knows(replica.name):
        routed = router.health.state(replica.name)
        if routed != "closed":
            return "on trial" if routed == "half_open" else routed
    engine = replica.engine
    if replica.is_upstream and not engine.ready:
        return "not ready"
    return _state(engine.ready, engine.failure, answers)


def _state(ready: bool, failure: str | None, answers: bool) -> str:
    if failure is not None:
        return "failed"
    if ready:
        return "ready" if answers else "idle"
    return "loading"
