"""Old names of metrics, exported beside the current ones so that dashboards keep working. They are deprecated."""

from collections.abc import Container, Iterable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

RENAMED_METRICS: Mapping[str, str] = {
    "dragoman_inter_token_seconds": "dragoman_inter_token_latency_seconds",
    "dragoman_kv_cells_used": "dragoman_kv_cache_used_cells",
    "dragoman_kv_cells_cached": "dragoman_kv_cache_prefix_cells",
    "dragoman_kv_cells": "dragoman_kv_cache_capacity_cells",
    "dragoman_queue_depth": "dragoman_queue_jobs_waiting",
    "dragoman_queue_running": "dragoman_queue_jobs_running",
    "dragoman_queue_oldest_seconds": "dragoman_queue_oldest_job_age_seconds",
    "dragoman_queue_attempts": "dragoman_job_attempts",
    "dragoman_queue_webhooks": "dragoman_webhook_attempts",
}
"""Old name → name, without the suffixes of counters and histograms."""

RENAMED_LABEL_VALUES: Mapping[str, Mapping[tuple[str, str], str]] = {
    "dragoman_queue_attempts": {("result", "requeued"): "postponed", ("result", "lease_lost"): "lost"}
}
"""Old name → (label, value) → old value."""

_OLD_NAMES = {name: old for old, name in RENAMED_METRICS.items()}


class WithDeprecatedNames(Collector):
    """The metrics of a registry, and after each renamed one a copy under its old name."""

    def __init__(self, registry: CollectorRegistry, models: Container[str] | None = None) -> None:
        """`models` are the values of the label `model` that are shown, and nothing without it; None: everything."""
        self._registry = registry
        self._models = models

    def collect(self) -> Iterable[Metric]:
        """Copy at collection: nothing is counted twice."""
        for metric in self._registry.collect():
            yield self._visible(metric)
            if metric.name in _OLD_NAMES:
                yield self._visible(_under_old_name(metric, _OLD_NAMES[metric.name]))

    def _visible(self, metric: Metric) -> Metric:
        if self._models is None:
            return metric
        copy = Metric(metric.name, metric.documentation, metric.type, metric.unit)
        copy.samples = [each for each in metric.samples if each.labels.get("model") in self._models]
        return copy


def _under_old_name(metric: Metric, old: str) -> Metric:
    copy = Metric(old, f"Deprecated: {metric.name}", metric.type, metric.unit)
    values = RENAMED_LABEL_VALUES.get(old, {})
    for sample in metric.samples:
        labels = {label: values.get((label, value), value) for label, value in sample.labels.items()}
        copy.samples.append(sample._replace(name=old + sample.name.removeprefix(metric.name), labels=labels))
    return copy
