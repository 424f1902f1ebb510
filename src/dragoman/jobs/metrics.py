"""What is counted of the queue, as Prometheus metrics. Each process counts what it does itself."""

from typing import Literal

from prometheus_client import CollectorRegistry, Counter

from dragoman.jobs.values.rows import JobResult, Requeue
from dragoman.jobs.webhooks.message import DeliveryResult

AttemptResult = Literal["finished", "failed", "engine_failed", "requeued", "lease_lost"]
"""engine_failed: the job waits again, unless this was its last attempt. requeued: the engine had no slot, or the server
was stopped; the attempt does not count. lease_lost: the job was cancelled, or another process took it over."""


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
            "dragoman_webhook_attempts", "Tries to deliver a webhook, by how they ended", ("result",), registry=registry
        )

    def count_attempt(self, model: str, outcome: JobResult | Requeue | None) -> None:
        """A job of the model is not run here any more; without an outcome it was lost."""
        self._attempts.labels(model, _result(outcome)).inc()

    def count_delivery(self, result: DeliveryResult) -> None:
        """A webhook was tried."""
        self._webhooks.labels(result).inc()


def _result(outcome: JobResult | Requeue | None) -> AttemptResult:
    match outcome:
        case None:
            return "lease_lost"
        case Requeue(error):
            return "requeued" if error is None else "engine_failed"
        case JobResult(state):
            return "finished" if state == "finished" else "failed"
