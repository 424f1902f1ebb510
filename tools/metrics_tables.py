"""Generates docs/metrics.md from the metrics themselves.

.venv/bin/python -m tools.metrics_tables           # writes it
.venv/bin/python -m tools.metrics_tables --check   # fails if it is not up to date
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from dragoman.core.events import Usage
from dragoman.engines.base import EngineStatistics
from dragoman.engines.echo import EchoEngine
from dragoman.gateway.execution.metrics import RequestMetrics
from dragoman.gateway.ledger_connection import LedgerState
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.metrics import RoutingMetrics
from dragoman.gateway.routing.replica import Replica
from dragoman.jobs.metrics import QueueMetrics
from dragoman.jobs.storage.reader import QueueDepth
from dragoman.server.ledger_metrics import LedgerMetrics
from dragoman.server.machine_metrics import DiskSpace, MachineCollector, MachineState
from dragoman.server.metrics import (
    EngineCollector,
    EngineState,
    QueueCollector,
    ReplicaCollector,
    SettingsCollector,
    SettingsState,
)
from dragoman.server.renamed_metrics import RENAMED_METRICS
from dragoman.server.vllm_metrics import CACHE_INFO_NAME, KV_USAGE_NAMES, VLLM_NAMES
from tools.generated import replace_part, write_or_check

DOCUMENT = Path(__file__).parent.parent / "docs" / "metrics.md"
BEGIN = "<!-- made by tools/metrics_tables.py from here -->"
END = "<!-- to here -->"

_MODEL = "model"


def registry() -> CollectorRegistry:
    """Return a registry with a sample of every metric."""
    made = CollectorRegistry()
    timer = RequestMetrics(made).start_timer(_MODEL)
    for _ in range(2):
        timer.observe_tokens(0, 1)
    timer.observe_usage(Usage(prompt_tokens=1, completion_tokens=1, cached_tokens=0))
    timer.observe_usage(Usage(prompt_tokens=1, completion_tokens=1, cached_tokens=0, source="upstream"))
    timer.end("ok", 1)
    routing = RoutingMetrics(made)
    routing.observe_first_token(_MODEL, "model/0", seconds=1.0, matched_blocks=0)
    for had_output, result in ((True, "ok"), (False, "failed")):
        routing.observe_end(_MODEL, "model/0", result, had_output=had_output)
    routing.observe_ejection(_MODEL, "model/0")
    routing.observe_hedge(_MODEL, "model/0")
    queue = QueueMetrics(made)
    queue.count_attempt(_MODEL, None)
    queue.count_delivery("delivered")
    LedgerMetrics(made)
    statistics = EngineStatistics(running=0, waiting=0, kv_cells_used=0, kv_cells_cached=0, kv_cells_total=1)
    made.register(EngineCollector([EngineState(_MODEL, statistics, has_failed=False)]))
    made.register(QueueCollector({_MODEL: QueueDepth()}))
    made.register(ReplicaCollector([_deployment()]))
    made.register(SettingsCollector(SettingsState(1, certificate_expires_at=0.0)))
    ledger = LedgerState(is_available=True, waiting=0, answered_at=0.0)
    made.register(MachineCollector(MachineState(ledger, {"database": DiskSpace(free=1, size=2)})))
    return made


def _deployment() -> Deployment:
    return Deployment(name=_MODEL, replicas=tuple(Replica(f"{_MODEL}/{number}", EchoEngine()) for number in range(2)))


def updated(document: str) -> str:
    """Return the document with current tables between its marks."""
    return replace_part(document, BEGIN, END, "\n".join(_part()))


def exported_name(metric: Metric) -> str:
    """Return the name in `/metrics`, without the suffixes of a histogram."""
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


def _part() -> Iterator[str]:
    metrics = list(registry().collect())
    types = {metric.name: metric.type for metric in metrics}
    names = {metric.name: exported_name(metric) for metric in metrics}
    yield "| metric | type | labels | meaning |\n|---|---|---|---|"
    for metric in metrics:
        labels = dict.fromkeys(label for sample in metric.samples for label in sample.labels if label != "le")
        cells = (f"`{names[metric.name]}`", metric.type, ", ".join(f"`{label}`" for label in labels))
        yield f"| {' | '.join(cells)} | {metric.documentation} |"
    yield "\n## vLLM's names\n"
    yield "With `vllm_names = true` in `[metrics]`, in addition, with the labels `model_name` and `engine`:\n"
    yield "| vLLM's | the same as |\n|---|---|"
    for name, vllm_names in VLLM_NAMES.items():
        suffix = "_total" if types[name] == "counter" else ""
        yield from (f"| `{each}{suffix}` | `{names[name]}` |" for each in vllm_names)
    ratio = "`dragoman_kv_cache_used_cells` / `dragoman_kv_cache_capacity_cells`"
    yield from (f"| `{each}` | {ratio} |" for each in KV_USAGE_NAMES)
    yield f"| `{CACHE_INFO_NAME}` | 1, with `dragoman_kv_cache_capacity_cells` as the label `num_gpu_blocks` |"
    yield "\n## Old names\n"
    yield "These are exported too, and are deprecated:\n"
    yield "| old | current |\n|---|---|"
    for old, name in RENAMED_METRICS.items():
        suffix = names[name].removeprefix(name)
        yield f"| `{old}{suffix}` | `{name}{suffix}` |"
    yield ""


def main() -> int:
    """Write the document, or check it. Return the process's exit status."""
    return write_or_check(DOCUMENT, updated, "tools.metrics_tables")


if __name__ == "__main__":
    sys.exit(main())
