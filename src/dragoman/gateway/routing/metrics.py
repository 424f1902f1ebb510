"""Prometheus metrics of attempts at replicas. Labels are names of the settings: `model` is the deployment."""

from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram

from dragoman.gateway.routing.prefix_tree import TOKENS_PER_BLOCK

_FIRST_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class _ReplicaMetrics(NamedTuple):
    """One replica's metrics, looked up once."""

    first_token: Histogram
    prefix_hits: Counter
    ends: dict[tuple[str, bool], Counter]
    """By the result, and by whether the answer had begun."""


class RoutingMetrics:
    """The metrics of one worker process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "dragoman_upstream_requests",
            "Answers that a replica began, by how they ended: ok, failed or cancelled",
            ("model", "upstream", "outcome"),
            registry=registry,
        )
        self._attempts = Counter(
            "dragoman_upstream_attempts",
            "Attempts that ended before the first token, by reason",
            ("model", "upstream", "reason"),
            registry=registry,
        )
        self._ejections = Counter(
            "dragoman_upstream_ejections",
            "Times that a replica was left out for its failures",
            ("model", "upstream"),
            registry=registry,
        )
        self._hedges = Counter(
            "dragoman_upstream_hedges",
            "Attempts at a replica beside one whose first token was late",
            ("model", "upstream"),
            registry=registry,
        )
        self._first_token = Histogram(
            "dragoman_upstream_first_token_seconds",
            "From an attempt's beginning to its first token",
            ("model", "upstream"),
            buckets=_FIRST_TOKEN_BUCKETS,
            registry=registry,
        )
        self._prefix_hits = Counter(
            "dragoman_upstream_prefix_hit_tokens",
            "Prompt tokens of answers whose replica was known to have them cached, an estimate",
            ("model", "upstream"),
            registry=registry,
        )

        self._by_replica: dict[tuple[str, str], _ReplicaMetrics] = {}

    def observe_first_token(self, deployment: str, replica: str, seconds: float, matched_blocks: int) -> None:
        """Note that an answer begins."""
        metrics = self._of(deployment, replica)
        metrics.first_token.observe(seconds)
        if matched_blocks:
            metrics.prefix_hits.inc(matched_blocks * TOKENS_PER_BLOCK)

    def observe_end(self, deployment: str, replica: str, result: str, *, had_output: bool) -> None:
        """Note the end of an attempt."""
        ends = self._of(deployment, replica).ends
        if (counter := ends.get((result, had_output))) is None:
            counter = (self._requests if had_output else self._attempts).labels(deployment, replica, result)
            ends[result, had_output] = counter
        counter.inc()

    def _of(self, deployment: str, replica: str) -> _ReplicaMetrics:
        if (metrics := self._by_replica.get((deployment, replica))) is None:
            labels = (deployment, replica)
            metrics = _ReplicaMetrics(self._first_token.labels(*labels), self._prefix_hits.labels(*labels), {})
            self._by_replica[deployment, replica] = metrics
        return metrics

    def observe_hedge(self, deployment: str, replica: str) -> None:
        """Note that a replica is asked besides another one."""
        self._hedges.labels(deployment, replica).inc()

    def observe_ejection(self, deployment: str, replica: str) -> None:
        """Note that a replica was ejected."""
        self._ejections.labels(deployment, replica).inc()
