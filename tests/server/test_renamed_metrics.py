"""Metrics are exported under their names and their old names."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from dragoman.jobs.metrics import QueueMetrics
from dragoman.jobs.values.rows import Requeue
from dragoman.server.renamed_metrics import RENAMED_METRICS, WithDeprecatedNames


def samples(registry: CollectorRegistry) -> dict[str, float]:
    lines = generate_latest(WithDeprecatedNames(registry)).decode().splitlines()
    found = (line.rpartition(" ") for line in lines if not line.startswith("#") and "_created" not in line)
    return {name: float(value) for name, _, value in found}


@pytest.mark.parametrize(("old", "name"), RENAMED_METRICS.items())
def test_a_renamed_metric_has_both_names(old: str, name: str) -> None:
    registry = CollectorRegistry()
    Gauge(name, "A gauge", ["model"], registry=registry).labels("owl").set(3)
    assert samples(registry) == {f'{name}{{model="owl"}}': 3, f'{old}{{model="owl"}}': 3}
    assert f"# HELP {old} Deprecated: {name}" in generate_latest(WithDeprecatedNames(registry)).decode()


def test_counters_and_histograms_keep_the_suffixes_of_their_samples() -> None:
    registry = CollectorRegistry()
    Counter("dragoman_webhook_attempts", "A counter", registry=registry).inc(2)
    Histogram("dragoman_inter_token_latency_seconds", "A histogram", buckets=(1, 2), registry=registry).observe(1.5)
    found = samples(registry)
    assert found["dragoman_queue_webhooks_total"] == found["dragoman_webhook_attempts_total"] == 2
    for suffix in ('_bucket{le="1.0"}', '_bucket{le="2.0"}', "_count", "_sum"):
        old, name = f"dragoman_inter_token_seconds{suffix}", f"dragoman_inter_token_latency_seconds{suffix}"
        assert found[old] == found[name]


def test_renamed_results_have_their_old_names_in_the_old_metric() -> None:
    registry = CollectorRegistry()
    metrics = QueueMetrics(registry)
    metrics.count_attempt("owl", Requeue(None))
    metrics.count_attempt("owl", None)
    metrics.count_attempt("owl", None)
    found = samples(registry)
    assert found['dragoman_job_attempts_total{model="owl",result="requeued"}'] == 1
    assert found['dragoman_queue_attempts_total{model="owl",result="postponed"}'] == 1
    assert found['dragoman_job_attempts_total{model="owl",result="lease_lost"}'] == 2
    assert found['dragoman_queue_attempts_total{model="owl",result="lost"}'] == 2


def test_other_metrics_are_exported_once() -> None:
    registry = CollectorRegistry()
    Gauge("dragoman_engine_up", "A gauge", registry=registry).set(1)
    assert samples(registry) == {"dragoman_engine_up": 1}
