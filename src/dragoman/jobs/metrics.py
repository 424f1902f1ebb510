"""What is counted of the queue, as Prometheus metrics. Each process counts what it does itself."""

from typing import Literal

from prometheus_client import CollectorRegistry, Counter

from dragoman.jobs.values.rows import JobResult, Requeue
from dragoman.jobs.webhooks.message import DeliveryResult

AttemptResult = Literal["finished", "failed", "engine_failed", "postponed", "lost"]
"""engine_failed: the job goes back to its place, unless it was its last attempt. postponed: the engine had no place for
it, or the server was stopped; this attempt does not count. lost: it was cancelled, or others have taken it over."""


class QueueMetrics:
    """The counters of one worker process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._attempts = Counter(
            "dragoman_queue_attempts",
            "Attempts to run a queued request, by how they ended",
            ("model", "result"),
            registry=registry,
        )
        self._webhooks = Counter(
            "dragoman_queue_webhooks", "Tries to deliver a webhook, by how they ended", ("result",), registry=registry
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
            return "lost"
        case Requeue(error):
            return "postponed" if error is None else "engine_failed"
        case JobResult(state):
            return "finished" if state == "finished" else "failed"
