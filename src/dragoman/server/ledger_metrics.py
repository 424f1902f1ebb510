"""Prometheus metrics of the ledger. Each worker counts its own client's work."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from prometheus_client import CollectorRegistry, Counter

from dragoman.accounts.process.client import LedgerClient
from dragoman.accounts.process.statistics import LedgerStatistics
from dragoman.core.background_tasks import repeat
from dragoman.gateway.execution.metrics import RequestHistogram

_INTERVAL_SECONDS = 1.0
"""How often a client's counts are added to the metrics. For each transaction it would cost as much as sending it."""

_ANSWER_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class LedgerMetrics:
    """Implements LedgerObserver with the metrics of one worker process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._answers = RequestHistogram(
            "dragoman_ledger_answer_seconds",
            "From asking the ledger to its answer, of the longest wait for each transaction",
            buckets=_ANSWER_BUCKETS,
            registry=registry,
        )
        failures = Counter(
            "dragoman_ledger_failures",
            "Transactions that the database failed, and ends of the ledger's process; both are repeated",
            ("reason",),
            registry=registry,
        )
        self._database_failures, self._process_failures = failures.labels("database"), failures.labels("process")
        self.answered_at = time.time()
        """When the ledger last answered, in seconds since 1970; before the first answer, when this was made."""

    @contextlib.asynccontextmanager
    async def observing(self, client: LedgerClient) -> AsyncIterator[None]:
        """Count what a client does within the block."""

        async def count() -> None:
            self.count(client)

        counting = asyncio.create_task(repeat("ledger metrics", count, _INTERVAL_SECONDS))
        try:
            yield
        finally:
            counting.cancel()
            await asyncio.wait([counting])

    def count(self, client: LedgerClient) -> None:
        """Count what a client has done since the last call."""
        taken, client.statistics = client.statistics, LedgerStatistics()
        if taken.answer_seconds:
            self.answered_at = time.time()
            self._answers.observe_all(taken.answer_seconds)
        if taken.database_failures:
            self._database_failures.inc(taken.database_failures)
        if taken.process_failures:
            self._process_failures.inc(taken.process_failures)
