"""`/metrics` in Prometheus's text format: the counts of all workers and the state of every engine."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dragoman.core.adapters import metrics_label
from dragoman.core.errors import EngineFailed, Overloaded
from dragoman.core.models import ServedModel
from dragoman.engines.base import Engine, EngineStatistics
from dragoman.gateway.admission.ledger import LedgerAdmission
from dragoman.gateway.admission.recording import UnmeteredAdmission
from dragoman.gateway.execution.metrics import RequestMetrics, file_values
from dragoman.gateway.ledger_connection import LedgerConnection
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.gateway.routing.metrics import RoutingMetrics
from dragoman.jobs.service.queue import JobQueue
from dragoman.jobs.storage.reader import QueueDepth
from dragoman.server.access import AccessControl, RouteClass, Viewer
from dragoman.server.ledger_metrics import LedgerMetrics
from dragoman.server.machine_metrics import MachineCollector, machine_state
from dragoman.server.renamed_metrics import WithDeprecatedNames
from dragoman.server.tracing import Tracing
from dragoman.server.vllm_metrics import VllmMetrics

_STATISTICS_TIMEOUT_SECONDS = 2.0
"""Time that an engine may take to report its state, which it does between two steps."""


PATHS = ("/metrics",)


def count_as_one_process() -> None:
    """Let this process, which does not fork and counts in one thread, count without locks and system calls.

    Call it before the first metric is made. A process that counts alone is not changed.
    """
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        values.ValueClass = file_values(os.getpid())


class SettingsState(NamedTuple):
    """What the metrics say about a worker's settings."""

    generation: int
    """Counts reloads, from 1 for the settings of the start."""
    certificate_expires_at: float | None = None
    """Seconds since 1970. None: there is no certificate."""


class MetricsSources(NamedTuple):
    """Sources of the metrics."""

    catalog: Catalog
    registry: CollectorRegistry
    directory: str | None
    """Directory in which the workers collect their counts. None: only those of `registry` are shown."""
    queue: JobQueue | None = None
    settings: "SettingsState | None" = None
    """None: the settings are never reloaded."""
    vllm_names: bool = False
    """Whether metrics are exported under vLLM's names too."""
    ledger: LedgerConnection | None = None
    """None: nothing is recorded."""


def routes(sources: MetricsSources, access: AccessControl) -> list[BaseRoute]:
    """Return the route. A key that may not use all models sees those that it may use."""

    shared = None if sources.directory is None else SharedCounts(sources.directory)

    async def answer(viewer: Viewer) -> Response:
        engines = map(_engine_state, sources.catalog.deployments)
        machine = machine_state(sources.ledger, sources.directory)
        states, depths, found = await asyncio.gather(asyncio.gather(*engines), _queue_depths(sources), machine)
        counts = (shared.registry() if shared is not None else None) or sources.registry
        state_registry = CollectorRegistry()
        state_registry.register(EngineCollector(states))
        state_registry.register(QueueCollector(depths))
        if sources.settings is not None:
            state_registry.register(SettingsCollector(sources.settings))
        state_registry.register(ReplicaCollector(sources.catalog.deployments))
        state_registry.register(MachineCollector(found))
        shown = _shown_labels(access.models_of(viewer), sources.catalog)
        collectors: list[Collector] = [WithDeprecatedNames(each, shown) for each in (counts, state_registry)]
        if sources.vllm_names:
            collectors += [VllmMetrics(each) for each in tuple(collectors)]
        return Response(b"".join(map(generate_latest, collectors)), media_type=CONTENT_TYPE_LATEST)

    async def metrics(request: Request) -> Response:
        return await access.respond(request, RouteClass.METRICS, answer)

    return [Route(path, metrics, methods=["GET"]) for path in PATHS]


def _shown_labels(visible: Iterable[ServedModel], catalog: Catalog) -> set[str] | None:
    """Return the models whose metrics are shown to a caller that may know of these; None: all metrics are."""
    shown = {metrics_label(model.id) for model in visible}
    return None if all(metrics_label(model.id) in shown for model in catalog.models()) else shown


class EngineState(NamedTuple):
    """The state of a deployment's engines together."""

    model: str
    statistics: EngineStatistics | None
    """None: the engine does not answer."""
    has_failed: bool


async def _engine_state(deployment: Deployment) -> EngineState:
    """Return the state of all replicas together: those that answer count."""
    reports = await asyncio.gather(*map(engine_statistics, deployment.engines))
    return EngineState(deployment.name, _sum_of([each for each in reports if each]), deployment.failure is not None)


async def engine_statistics(engine: Engine) -> EngineStatistics | None:
    """Ask an engine for its load. None: it does not answer."""
    with contextlib.suppress(EngineFailed, TimeoutError):
        async with asyncio.timeout(_STATISTICS_TIMEOUT_SECONDS):
            return await engine.statistics()
    return None


def _sum_of(reports: Sequence[EngineStatistics]) -> EngineStatistics | None:
    if len(reports) <= 1:
        return reports[0] if reports else None
    fields = EngineStatistics.__struct_fields__
    return EngineStatistics(**{field: sum(getattr(report, field) for report in reports) for field in fields})


async def _queue_depths(sources: MetricsSources) -> dict[str, QueueDepth]:
    """Return the depths of all models, or none if the database does not answer."""
    if sources.queue is None:
        return {}
    try:
        async with asyncio.timeout(_STATISTICS_TIMEOUT_SECONDS):
            found = await sources.queue.depths()
    except (Overloaded, TimeoutError):
        return {}
    depths = {model.id: QueueDepth() for model in sources.catalog.models()}
    for model, depth in found.items():
        label = metrics_label(model)
        depths[label] = depths.get(label, QueueDepth()).combined(depth)
    return depths


class SharedCounts:
    """The counts of all workers, in files of one directory."""

    def __init__(self, directory: str) -> None:
        """Leave a mark in the directory, which is gone when somebody removed the directory with this worker's files."""
        self._directory = directory
        self._mark = Path(directory) / f"worker-{os.getpid()}.mark"
        self._mark.touch()

    def registry(self) -> CollectorRegistry | None:
        """Return the counts. None if this worker counts on in files without names, which nobody else can read."""
        if not self._mark.exists():
            return None
        registry = CollectorRegistry()
        MultiProcessCollector(registry, self._directory)  # type: ignore[no-untyped-call]
        return registry


class EngineCollector(Collector):
    """The engines' states as gauges. An engine that does not answer has no others than these two."""

    def __init__(self, states: Sequence[EngineState]) -> None:
        self._states = states

    def collect(self) -> Iterable[Metric]:
        for family, figures in ((GaugeMetricFamily, _ENGINE_GAUGES), (CounterMetricFamily, _ENGINE_COUNTERS)):
            for name, (documentation, value) in figures.items():
                metric = family(name, documentation, labels=["model"])
                for state in self._states:
                    if state.statistics is not None:
                        metric.add_metric([state.model], value(state.statistics))
                yield metric
        up = GaugeMetricFamily("dragoman_engine_up", "Whether the engine answers", labels=["model"])
        failed = GaugeMetricFamily("dragoman_engine_failed", "Whether the model cannot be loaded", labels=["model"])
        for state in self._states:
            up.add_metric([state.model], state.statistics is not None)
            failed.add_metric([state.model], state.has_failed)
        yield up
        yield failed


class SettingsCollector(Collector):
    """The state of a worker's settings as gauges."""

    def __init__(self, state: SettingsState) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        documentation = "Reloads of the settings, counted from 1 for the start, of the worker that answers"
        yield GaugeMetricFamily("dragoman_settings_generation", documentation, value=self._state.generation)
        if self._state.certificate_expires_at is not None:
            yield GaugeMetricFamily(
                "dragoman_certificate_expiry_timestamp_seconds",
                "When the certificate of TLS expires, in seconds since 1970",
                value=self._state.certificate_expires_at,
            )


class ReplicaCollector(Collector):
    """What the answering worker's routers know of their replicas, as gauges."""

    def __init__(self, deployments: Sequence[Deployment]) -> None:
        self._deployments = deployments

    def collect(self) -> Iterable[Metric]:
        labels = ["model", "upstream"]
        in_flight = GaugeMetricFamily(
            "dragoman_upstream_in_flight", "Requests of the worker that answers here", labels=labels
        )
        ejected = GaugeMetricFamily(
            "dragoman_upstream_ejected", "Whether the worker that answers here leaves it out", labels=labels
        )
        budget = GaugeMetricFamily(
            "dragoman_upstream_retry_budget", "Further attempts that the worker allows now", labels=["model"]
        )
        for deployment in self._deployments:
            if (router := deployment.router) is None:
                continue
            budget.add_metric([deployment.name], router.budget.remaining)
            for replica in deployment.replicas:
                names = [deployment.name, replica.name]
                in_flight.add_metric(names, router.leases.in_flight(replica.name).requests)
                ejected.add_metric(names, router.health.is_ejected(replica.name))
        yield from (in_flight, ejected, budget)


class QueueCollector(Collector):
    """The queue's state as gauges. It is the same for all workers."""

    def __init__(self, depths: Mapping[str, QueueDepth]) -> None:
        self._depths = depths

    def collect(self) -> Iterable[Metric]:
        for name, (documentation, value) in _QUEUE_GAUGES.items():
            gauge = GaugeMetricFamily(name, documentation, labels=["model"])
            for model, depth in self._depths.items():
                gauge.add_metric([model], value(depth))
            yield gauge


_QUEUE_GAUGES: dict[str, tuple[str, Callable[[QueueDepth], float]]] = {
    "dragoman_queue_jobs_waiting": ("Jobs that wait in the queue", lambda depth: depth.waiting),
    "dragoman_queue_jobs_running": ("Jobs of the queue that run", lambda depth: depth.running),
    "dragoman_queue_oldest_job_age_seconds": (
        "Time that the oldest waiting job has waited",
        lambda depth: depth.oldest_seconds,
    ),
}

_ENGINE_GAUGES: dict[str, tuple[str, Callable[[EngineStatistics], int]]] = {
    "dragoman_running_sequences": ("Sequences in a slot", lambda state: state.running),
    "dragoman_waiting_sequences": ("Sequences that wait for a slot", lambda state: state.waiting),
    "dragoman_kv_cache_used_cells": ("KV cells of running sequences", lambda state: state.kv_cells_used),
    "dragoman_kv_cache_prefix_cells": ("KV cells of finished sequences", lambda state: state.kv_cells_cached),
    "dragoman_kv_cache_capacity_cells": ("All KV cells", lambda state: state.kv_cells_total),
    "dragoman_saved_prefix_bytes": (
        "Size of the prefixes on disk, of all models in the folder",
        lambda state: state.saved_prefix_bytes,
    ),
}

_ENGINE_COUNTERS: dict[str, tuple[str, Callable[[EngineStatistics], int]]] = {
    "dragoman_drafted_tokens": ("Tokens that speculation drafted", lambda state: state.drafted_tokens),
    "dragoman_accepted_draft_tokens": ("Drafted tokens that were generated", lambda state: state.accepted_draft_tokens),
    "dragoman_saved_prefix_hits": (
        "Requests for which a prefix was read from disk",
        lambda state: state.saved_prefix_hits,
    ),
    "dragoman_saved_prefix_tokens": (
        "Prompt tokens that were read from disk instead of being computed",
        lambda state: state.saved_prefix_tokens,
    ),
    "dragoman_saved_prefix_evictions": (
        "Prefixes that were deleted from disk to make room for others",
        lambda state: state.saved_prefix_evictions,
    ),
}


def routing_metrics(catalog: Catalog, registry: CollectorRegistry) -> RoutingMetrics:
    """Return the metrics of attempts, with which the catalog's routers count."""
    counted = RoutingMetrics(registry)
    for deployment in catalog.deployments:
        if deployment.router is not None:
            deployment.router.metrics = counted
    return counted


def observed_ledger(
    admission: UnmeteredAdmission | LedgerAdmission, registry: CollectorRegistry
) -> LedgerConnection | None:
    """Have metrics count the work of the ledger that admits, and return the connection to it. None: there is none."""
    if admission.connection is not None:
        admission.connection.observer = LedgerMetrics(registry)
    return admission.connection


def request_metrics(registry: CollectorRegistry, tracing: Tracing | None) -> RequestMetrics:
    """Return the metrics of requests, which make spans if there is tracing."""
    if tracing is None:
        return RequestMetrics(registry)
    from dragoman.gateway.execution.tracing import TracingMetrics  # It needs the extra `otel`.

    return TracingMetrics(registry, tracing.tracer)
