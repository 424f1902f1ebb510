"""What the metrics say about each upstream and each model since the server's start."""

import math
from collections.abc import Iterable, Mapping

import msgspec
from prometheus_client import CollectorRegistry


class UpstreamCounts(msgspec.Struct, kw_only=True):
    """The attempts at one upstream, of all workers."""

    answers: int = 0
    """Answers that it began and completed."""
    failures: dict[str, int] = {}
    """Attempts and answers that ended otherwise, by reason."""
    ejections: int = 0
    first_tokens: list[tuple[float, float]] = []
    """Upper bounds in seconds, and how many answers began within them."""

    def first_token_ms(self, fraction: float) -> float | None:
        """Estimate a percentile of the times to the first token."""
        return percentile_ms(self.first_tokens, fraction)


NO_COUNTS = UpstreamCounts()


def percentile_ms(buckets: Iterable[tuple[float, float]], fraction: float) -> float | None:
    """Estimate a percentile, in milliseconds, by linear interpolation within its class. None: nothing was counted.

    `buckets` are those of a histogram: upper bounds in seconds, and how many were within each.
    """
    ordered = sorted(buckets)
    total = max((count for _, count in ordered), default=0.0)
    lower = below = 0.0
    for upper, count in ordered:
        if total and count >= fraction * total:
            share = (fraction * total - below) / (count - below) if count > below else 1.0
            return 1000 * (lower if math.isinf(upper) else lower + (upper - lower) * share)
        lower, below = upper, count
    return None


_FIRST_TOKEN = "dragoman_upstream_first_token_seconds_bucket"


def upstream_counts(registry: CollectorRegistry) -> Mapping[tuple[str, str], UpstreamCounts]:
    """Return the counts by deployment and name of the upstream."""
    found: dict[tuple[str, str], UpstreamCounts] = {}
    for metric in registry.collect():
        for sample in metric.samples:
            if not sample.name.startswith("dragoman_upstream_") or "upstream" not in sample.labels:
                continue
            counts = found.setdefault((sample.labels["model"], sample.labels["upstream"]), UpstreamCounts())
            outcome = sample.labels.get("outcome") or sample.labels.get("reason")
            if sample.name == _FIRST_TOKEN:
                counts.first_tokens.append((float(sample.labels["le"]), sample.value))
            elif sample.name == "dragoman_upstream_ejections_total":
                counts.ejections += int(sample.value)
            elif outcome is not None and sample.name.endswith("_total"):
                if outcome == "ok":
                    counts.answers += int(sample.value)
                else:
                    counts.failures[outcome] = counts.failures.get(outcome, 0) + int(sample.value)
    return found


class PromptCounts(msgspec.Struct, kw_only=True):
    """The prompt tokens of one model."""

    tokens: int = 0
    shared: int = 0
    """Those that were in a prefix cache."""


def prompt_counts(registry: CollectorRegistry) -> Mapping[str, PromptCounts]:
    """Return the counts by model."""
    found: dict[str, PromptCounts] = {}
    for metric in registry.collect():
        for sample in metric.samples:
            if sample.name == "dragoman_prompt_tokens_total":
                found.setdefault(sample.labels["model"], PromptCounts()).tokens += int(sample.value)
            elif sample.name == "dragoman_cached_prompt_tokens_total":
                found.setdefault(sample.labels["model"], PromptCounts()).shared += int(sample.value)
    return found
