"""Store the events of all running jobs in one transaction at short intervals."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core import logs
from dragoman.core.errors import Overloaded
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.streams.broker import EventBroker
from dragoman.jobs.values.batches import batch_length
from dragoman.jobs.values.options import FLUSH_SECONDS
from dragoman.jobs.values.payloads import pack_report
from dragoman.jobs.values.rows import JobReport, Reported
from dragoman.jobs.worker.attempts import RunningAttempt

_RETRY_SECONDS = 0.5
"""Pause while the database does not answer, or an account is locked. While the database does not answer, events wait in
memory, and then the engines wait."""

_thread = ThreadPoolExecutor(1, "event-packer")
"""Not the event loop's own threads, which wait for other servers: for minutes, where adapters are downloaded."""

_log = logs.get_logger(__name__)


class EventFlusher:
    """Stores what the attempts of one process report, and publishes it to subscribers."""

    def __init__(
        self, thread: DatabaseThread, store: JobStore, broker: EventBroker, fingerprint: Callable[[str], str | None]
    ) -> None:
        """`fingerprint` returns the fingerprint of a model."""
        self._thread = thread
        self._store = store
        self._broker = broker
        self._fingerprint = fingerprint
        self._dirty = asyncio.Event()
        self._urgent = asyncio.Event()

    def mark_dirty(self, attempt: RunningAttempt) -> None:
        """Note that the attempt may have something to store."""
        if attempt.is_dirty:
            self._dirty.set()
        if attempt.is_urgent:
            self._urgent.set()

    async def wait_due(self) -> None:
        """Wait until there is something to store: without delay if it is urgent, else after the flush interval."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._urgent.wait()
        await self._dirty.wait()
        self._dirty.clear()
        self._urgent.clear()

    async def flush(self, attempts: Sequence[RunningAttempt]) -> list[RunningAttempt]:
        """Store everything pending, however long the database takes. Returns the attempts that ended or were lost."""
        reports = [attempt.take_report(self._fingerprint(attempt.job.model)) for attempt in attempts]
        lost, locked = await self._report(reports)
        ended: list[RunningAttempt] = []
        for attempt, report in zip(attempts, reports, strict=True):
            is_lost = attempt.number in lost
            if report.events and not is_lost:
                self._broker.publish(attempt.number, report.first, report.events)
            if attempt.number in locked:
                asyncio.get_running_loop().call_later(_RETRY_SECONDS, self.mark_dirty, attempt)
            elif is_lost or report.outcome is not None:
                self._broker.notify([attempt.number])
                ended.append(attempt)
        return ended

    async def _report(self, reports: Sequence[JobReport]) -> Reported:
        reported = [Reported(set(), set())]
        try:
            # Not within the transaction, for whose end all other writers wait.
            remaining = await asyncio.get_running_loop().run_in_executor(_thread, _pack, reports)
            while remaining:
                count = batch_length([len(report.payload) for report in remaining])
                reported.append(await self._store_batch(remaining[:count]))
                remaining = remaining[count:]
        except Exception:  # noqa: BLE001 - a defect affects these jobs only: they run again after their leases expire
            _log.exception("job_events_flush_failed")
            return Reported({report.lease.number for report in reports}, set())
        return Reported.all_of(reported)

    async def _store_batch(self, reports: Sequence[JobReport]) -> Reported:
        while True:
            try:
                return await self._thread.run(self._store.report, reports)
            except Overloaded:
                await asyncio.sleep(_RETRY_SECONDS)


def _pack(reports: Sequence[JobReport]) -> list[JobReport]:
    return [pack_report(report) for report in reports]
