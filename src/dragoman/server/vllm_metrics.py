"""Metrics under vLLM's names, so that its dashboards, autoscalers and endpoint pickers find them.

Only what dragoman measures itself is exported. The names are those of vLLM's engine metrics
(https://docs.vllm.ai/en/stable/usage/metrics.html), with its labels `model_name` and `engine`.
"""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

VLLM_NAMES: Mapping[str, tuple[str, ...]] = {
    "dragoman_running_sequences": ("vllm:num_requests_running",),
    "dragoman_waiting_sequences": ("vllm:num_requests_waiting",),
    "dragoman_prompt_tokens": ("vllm:prompt_tokens", "vllm:prefix_cache_queries"),
    "dragoman_cached_prompt_tokens": ("vllm:prefix_cache_hits",),
    "dragoman_completion_tokens": ("vllm:generation_tokens",),
    "dragoman_drafted_tokens": ("vllm:spec_decode_num_draft_tokens",),
    "dragoman_accepted_draft_tokens": ("vllm:spec_decode_num_accepted_tokens",),
    "dragoman_time_to_first_token_seconds": ("vllm:time_to_first_token_seconds",),
    "dragoman_inter_token_latency_seconds": ("vllm:time_per_output_token_seconds", "vllm:inter_token_latency_seconds"),
    "dragoman_request_duration_seconds": ("vllm:e2e_request_latency_seconds",),
}
"""Name → vLLM's names, without the suffixes of counters and histograms. Buckets are dragoman's."""

_USED, _CAPACITY = "dragoman_kv_cache_used_cells", "dragoman_kv_cache_capacity_cells"

KV_USAGE_NAMES = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
"""Of 0 to 1, whatever the name says. The second one is that of older versions."""

CACHE_INFO_NAME = "vllm:cache_config_info"
"""Always 1; its labels say how large the cache is. A KV cell is a block of one token."""


class VllmMetrics(Collector):
    """The metrics of another collector that vLLM has as well, under its names."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def collect(self) -> Iterable[Metric]:
        cells: dict[str, Metric] = {}
        for metric in self._collector.collect():
            for name in VLLM_NAMES.get(metric.name, ()):
                copy = Metric(name, metric.documentation, metric.type)
                copy.samples = [_renamed(sample, metric.name, name) for sample in metric.samples]
                yield copy
            if metric.name in (_USED, _CAPACITY):
                cells[metric.name] = metric
        if len(cells) == 2:
            yield from _cache_metrics(cells[_USED], cells[_CAPACITY])


def _renamed(sample: Sample, name: str, vllm_name: str) -> Sample:
    others = {label: value for label, value in sample.labels.items() if label != "model"}
    return sample._replace(
        name=vllm_name + sample.name.removeprefix(name), labels=_labels(sample.labels["model"], **others)
    )


def _labels(model: str, **others: str) -> dict[str, str]:
    return {"model_name": model, "engine": "0", **others}


def _cache_metrics(used: Metric, capacity: Metric) -> Iterator[Metric]:
    cells = {sample.labels["model"]: sample.value for sample in capacity.samples}
    for name in KV_USAGE_NAMES:
        usage = Metric(name, "KV cells of running sequences, as a part of all", "gauge")
        for sample in used.samples:
            model = sample.labels["model"]
            usage.add_sample(name, _labels(model), sample.value / cells[model] if cells.get(model) else 0.0)
        yield usage
    info = Metric(CACHE_INFO_NAME, "The size of the KV cache", "gauge")
    for model, total in cells.items():
        info.add_sample(CACHE_INFO_NAME, _labels(model, block_size="1", num_gpu_blocks=str(int(total))), 1.0)
    yield info
