"""`/metrics` in Prometheus's text format: the counts of all workers and the state of every engine."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dragoman.core.errors import DragomanError, EngineFailed, Forbidden, Limited, Overloaded, Unauthenticated
from dragoman.core.jobs import QueueService
from dragoman.core.service import Caller, VisibleModels
from dragoman.dialects.door import Door, ExchangeOptions, bearer_key, error_headers, guard
from dragoman.dialects.form import ErrorReply
from dragoman.engines.base import EngineStatistics
from dragoman.gateway.catalog import Catalog, Deployment

_ANSWER_SECONDS = 2.0
"""How long an engine may take to tell its state; it does so between two steps."""


def routes(
    catalog: Catalog,
    registry: CollectorRegistry,
    directory: str | None,
    service: QueueService,
    options: ExchangeOptions,
) -> list[BaseRoute]:
    """`directory` is where the workers gather their counts; None: those of `registry` alone are shown.

    Where there are keys, one of them is needed here too, as `Authorization: Bearer KEY`.
    """

    door = Door(service, bearer_key, options)

    async def answer(_caller: Caller, _visible: VisibleModels) -> Response:
        states = await asyncio.gather(*(_statistics(deployment) for deployment in catalog.deployments))
        shown = registry if directory is None else _gathered(directory)
        engines = CollectorRegistry()
        engines.register(_EngineCollector(states))
        return Response(generate_latest(shown) + generate_latest(engines), media_type=CONTENT_TYPE_LATEST)

    async def metrics(request: Request) -> Response:
        return await guard(request, door, answer, _Refusals())

    return [Route("/metrics", metrics, methods=["GET"])]


class _Refusals:
    """Implements dialects.exchange.ErrorReplies."""

    def reply(self, error: DragomanError) -> ErrorReply:
        status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 500)
        return ErrorReply(status, msgspec.json.encode({"detail": error.message}), error_headers(error))


_STATUSES = {Unauthenticated: 401, Forbidden: 403, Limited: 429, Overloaded: 503}


async def _statistics(deployment: Deployment) -> tuple[str, EngineStatistics | None]:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return deployment.name, await deployment.engine.statistics()
    except (EngineFailed, TimeoutError):
        return deployment.name, None


def _gathered(directory: str) -> CollectorRegistry:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, directory)  # type: ignore[no-untyped-call]
    return registry


class _EngineCollector(Collector):
    """The engines' states as gauges. An engine that does not answer is only shown as not up."""

    def __init__(self, states: Sequence[tuple[str, EngineStatistics | None]]) -> None:
        self._states = states

    def collect(self) -> Iterable[Metric]:
        for name, (documentation, value) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, documentation, labels=["model"])
            for model, state in self._states:
                if state is not None:
                    gauge.add_metric([model], value(state))
            yield gauge
        up = GaugeMetricFamily("dragoman_engine_up", "Whether the engine answers", labels=["model"])
        for model, state in self._states:
            up.add_metric([model], state is not None)
        yield up


_GAUGES: dict[str, tuple[str, Callable[[EngineStatistics], int]]] = {
    "dragoman_running_sequences": ("Sequences in a slot", lambda state: state.running),
    "dragoman_waiting_sequences": ("Sequences waiting for a slot", lambda state: state.waiting),
    "dragoman_kv_cells_used": ("KV cells of running sequences", lambda state: state.kv_cells_used),
    "dragoman_kv_cells_cached": ("KV cells of finished sequences", lambda state: state.kv_cells_cached),
    "dragoman_kv_cells": ("KV cells there are", lambda state: state.kv_cells_total),
}
