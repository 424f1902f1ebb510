"""Prometheus metrics of the queue. Each process counts its own work."""

from typing import Literal

from prometheus_client import CollectorRegistry, Counter

from dragoman.jobs.values.rows import AttemptOutcome, JobResult, Requeue
from dragoman.jobs.webhooks.message import DeliveryResult

AttemptResult = Literal["finished", "failed", "engine_failed", "requeued", "lease_lost"]
"""engine_failed: the job is requeued, unless this was its last attempt. requeued: the engine was full or loading, or
the server stopped; the attempt does not count. lease_lost: the job was cancelled, or another process took it over."""


class QueueMetrics:
    """The counters of one worker process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._attempts = Counter(
            "dragoman_job_attempts",
            "Attempts to run a queued request, by how they ended",
            ("model", "result"),
            registry=registry,
        )
        self._webhooks = Counter(
            "dragoman_webhook_attempts",
            "Attempts to deliver a webhook, by how they ended",
            ("result",),
            registry=registry,
        )

    def count_attempt(self, model: str, outcome: AttemptOutcome | None) -> None:
        """Count the end of an attempt in this process. `outcome` None: the job was lost."""
        self._attempts.labels(model, _result(outcome)).inc()

    def count_delivery(self, result: DeliveryResult) -> None:
        """Count an attempt to deliver a webhook."""
        self._webhooks.labels(result).inc()


def _result(outcome: AttemptOutcome | None) -> AttemptResult:
    match outcome:
        case None:
            return "lease_lost"
        case Requeue(error):
            return "requeued" if error is None else "engine_failed"
        case JobResult(state):
            return "finished" if state == "finished" else "failed"
