"""The state of the server at one moment: what its engines do, and how many tokens come a second."""

import asyncio
import time
from collections import deque

import msgspec
from prometheus_client import CollectorRegistry

from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.server.console.counts import percentile_ms
from dragoman.server.console.services import ConsoleServices
from dragoman.server.metrics import SharedCounts, engine_statistics

_PIECES = ("dragoman_time_to_first_token_seconds_count", "dragoman_inter_token_latency_seconds_count")
"""Counters of the pieces that answers are sent in while they are generated, nearly always one token each. The counter
of tokens itself counts a request at its end."""

_WINDOW_SECONDS = 10.0
"""Time over which tokens a second are averaged."""

_FIRST_TOKEN = "dragoman_time_to_first_token_seconds_bucket"

_FIRST_TOKEN_SECONDS = 300.0
"""Time over which percentiles of the first tokens are taken."""

_FIRST_TOKEN_PAUSE_SECONDS = 5.0
"""Between two counts that are kept for that."""

_REUSE_SECONDS = 0.5
"""How long one sample serves all pages."""


class ReplicaGauges(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one engine of a model."""

    name: str
    state: str
    """As that of a model, or `ejected`, `on trial` or `draining`."""
    running: int
    waiting: int
    resident_bytes: int


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
    resident_bytes: int
    """Memory of the engines on this machine. 0: there are none."""
    drafted_tokens: int
    accepted_draft_tokens: int
    replicas: tuple[ReplicaGauges, ...]


class Gauges(msgspec.Struct, frozen=True, kw_only=True):
    """The state of all engines together."""

    running: int
    waiting: int
    tokens_per_second: float
    first_token_p50: float | None
    """Milliseconds, of the answers that began in the last five minutes, as far back as somebody has looked. None: none
    did."""
    first_token_p95: float | None
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
        self._first_tokens: deque[tuple[float, dict[float, float]]] = deque()
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
        pieces, first_tokens = await asyncio.to_thread(self._count)
        recent = self._recent_first_tokens(first_tokens)
        return Gauges(
            running=sum(model.running for model in models),
            waiting=sum(model.waiting for model in models),
            tokens_per_second=self._rate(pieces),
            first_token_p50=percentile_ms(recent, 0.5),
            first_token_p95=percentile_ms(recent, 0.95),
            models=models,
        )

    def counts(self) -> CollectorRegistry:
        """Return the counts of all workers. Blocks: they are in files."""
        return (self._shared.registry() if self._shared is not None else None) or self._services.metrics.registry

    def _count(self) -> tuple[float, dict[float, float]]:
        """Return the pieces of answers, and how many answers began within each bound, in seconds, since the start."""
        pieces, first_tokens = 0.0, dict[float, float]()
        for metric in self.counts().collect():
            for sample in metric.samples:
                if sample.name in _PIECES:
                    pieces += sample.value
                elif sample.name == _FIRST_TOKEN:
                    bound = float(sample.labels["le"])
                    first_tokens[bound] = first_tokens.get(bound, 0.0) + sample.value
        return pieces, first_tokens

    def _recent_first_tokens(self, counted: dict[float, float]) -> list[tuple[float, float]]:
        """Return how many answers began within each bound in the last minutes."""
        now, kept = time.monotonic(), self._first_tokens
        if not kept or now >= kept[-1][0] + _FIRST_TOKEN_PAUSE_SECONDS:
            kept.append((now, counted))
        while len(kept) > 1 and kept[1][0] <= now - _FIRST_TOKEN_SECONDS:
            kept.popleft()
        before = kept[0][1]
        return [(bound, count - before.get(bound, 0.0)) for bound, count in counted.items()]

    def _rate(self, tokens: float) -> float:
        now = time.monotonic()
        self._tokens.append((now, tokens))
        while len(self._tokens) > 2 and self._tokens[1][0] <= now - _WINDOW_SECONDS:
            self._tokens.popleft()
        first_at, first = self._tokens[0]
        return max(0.0, tokens - first) / (now - first_at) if now > first_at else 0.0


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
        resident_bytes=total("resident_bytes"),
        drafted_tokens=total("drafted_tokens"),
        accepted_draft_tokens=total("accepted_draft_tokens"),
        replicas=tuple(
            ReplicaGauges(
                name=replica.name,
                state=_replica_state(deployment, replica, answers=report is not None),
                running=0 if report is None else report.running,
                waiting=0 if report is None else report.waiting,
                resident_bytes=0 if report is None else report.resident_bytes,
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
