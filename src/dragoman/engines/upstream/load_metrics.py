"""The load of an upstream, from its Prometheus metrics.

Sources of the names: the documents of vLLM, SGLang and llama.cpp's server, the Gateway API inference extension's model
server protocol, and docs/metrics.md.
"""

import math
import re
from collections.abc import Mapping

import msgspec

from dragoman.engines.reported_load import ReportedLoad

_LABEL = re.compile(rb'(\w+)="((?:[^"\\]|\\.)*)"')


class LoadMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """What a kind of server calls its load. Names without a value are not looked for."""

    running: str
    waiting: str
    kv_usage: tuple[str, ...] = ()
    """Shares from 0 to 1; the first one that is there counts."""
    kv_cells: tuple[str, str] | None = None
    """Used cells, and all."""
    cache_info: tuple[str, str, str] | None = None
    """The metric, and its labels with the size of a block and the number of blocks."""
    adapters: str | None = None
    """The metric with vLLM's labels."""
    model_label: str | None = None
    """The label that tells the models of a server apart; None: it has one."""


Samples = Mapping[str, list[tuple[dict[str, str], float]]]


def parse_load(
    text: bytes, names: LoadMetrics, *, model: str, own_requests: int, adapter_prefix: str = ""
) -> ReportedLoad | None:
    """Return the load of a model; None: the text has none.

    `own_requests` are those that this process has sent. `adapter_prefix` begins the names of adapters in the result.
    """
    samples = _samples(text, names, model)
    if names.running not in samples and names.waiting not in samples:
        return None
    requests = sum(value for name in (names.running, names.waiting) for _, value in samples.get(name, ()))
    active, waiting, most = _adapters(samples, names, adapter_prefix)
    return ReportedLoad(
        other_requests=max(0, round(requests) - own_requests),
        kv_usage=min(1.0, max(0.0, _kv_usage(samples, names))),
        cache_tokens=_cache_tokens(samples, names),
        active_adapters=active,
        waiting_adapters=waiting,
        max_adapters=most,
    )


def _samples(text: bytes, names: LoadMetrics, model: str) -> Samples:
    wanted = [names.running, names.waiting, *names.kv_usage, *(names.kv_cells or ())]
    wanted += [name for name in (names.adapters, names.cache_info and names.cache_info[0]) if name]
    line = re.compile(rb"^(%b)(?:\{(.*)\})? (\S+)" % b"|".join(re.escape(name.encode()) for name in wanted), re.M)
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for name, labels_text, value_text in line.findall(text):
        labels = {key.decode(): value.decode(errors="replace") for key, value in _LABEL.findall(labels_text)}
        try:
            value = float(value_text)
        except ValueError:
            continue
        if math.isfinite(value) and labels.get(names.model_label or "", model) == model:
            found.setdefault(name.decode(), []).append((labels, value))
    return found


def _kv_usage(samples: Samples, names: LoadMetrics) -> float:
    if names.kv_cells is not None:
        used, total = (sum(value for _, value in samples.get(name, ())) for name in names.kv_cells)
        return used / total if total > 0 else 0.0
    values = next((samples[name] for name in names.kv_usage if name in samples), [])
    return max((value for _, value in values), default=0.0)


def _cache_tokens(samples: Samples, names: LoadMetrics) -> int | None:
    if names.kv_cells is not None:
        return round(sum(value for _, value in samples.get(names.kv_cells[1], ()))) or None
    if names.cache_info is None:
        return None
    name, size, count = names.cache_info
    tokens = [
        int(labels[size]) * int(labels[count])
        for labels, _ in samples.get(name, ())
        if labels.get(size, "").isdecimal() and labels.get(count, "").isdecimal()
    ]
    return sum(tokens) or None


def _adapters(samples: Samples, names: LoadMetrics, prefix: str) -> tuple[frozenset[str], frozenset[str], int | None]:
    """Return what is active, what waits, and how many can be active. The value of each sample is its time."""
    reports = samples.get(names.adapters or "", [])
    if not reports:
        return frozenset(), frozenset(), None
    labels, _ = max(reports, key=lambda report: report[1])
    active, waiting = (
        frozenset(f"{prefix}{name.strip()}" for name in labels.get(label, "").split(",") if name.strip())
        for label in ("running_lora_adapters", "waiting_lora_adapters")
    )
    most = labels.get("max_lora", "")
    return active, waiting, int(most) if most.isdecimal() else None
