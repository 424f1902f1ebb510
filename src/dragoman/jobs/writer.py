"""Writing down what running jobs have told: of all of them together, in one transaction every so often."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import structlog

from dragoman.accounts.database_thread import DatabaseThread
from dragoman.core.errors import Overloaded
from dragoman.jobs.attempts import RunningAttempt
from dragoman.jobs.follow import Board
from dragoman.jobs.options import FLUSH_SECONDS
from dragoman.jobs.rows import Report
from dragoman.jobs.store import JobStore

_PAUSE_SECONDS = 0.5
"""When the database does not answer. Until it does, the jobs' events wait, and with them their engines."""

_log = structlog.get_logger(__name__)


class Writer:
    """Empties the attempts of one process, and tells those who follow them."""

    def __init__(
        self, thread: DatabaseThread, store: JobStore, board: Board, fingerprint: Callable[[str], str | None]
    ) -> None:
        """`fingerprint` tells that of a model."""
        self._thread = thread
        self._store = store
        self._board = board
        self._fingerprint = fingerprint
        self._news = asyncio.Event()
        self._urgent = asyncio.Event()

    def notice(self, attempt: RunningAttempt) -> None:
        """There may be something to be written of the attempt."""
        if attempt.has_news:
            self._news.set()
        if attempt.is_urgent:
            self._urgent.set()

    async def due(self) -> None:
        """Return when something is to be written: as soon as there is, if it is urgent or long ago since the last."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._urgent.wait()
        await self._news.wait()
        self._news.clear()
        self._urgent.clear()

    async def write(self, attempts: Sequence[RunningAttempt]) -> list[RunningAttempt]:
        """Write all that there is of these, however long the database takes; those that are over, or were lost."""
        reports = [attempt.take(self._fingerprint(attempt.job.model)) for attempt in attempts]
        lost = await self._report(reports) if reports else set()
        over: list[RunningAttempt] = []
        for attempt, report in zip(attempts, reports, strict=True):
            is_lost = attempt.number in lost
            if report.events and not is_lost:
                self._board.stored(attempt.number, report.first, report.events)
            if is_lost or report.outcome is not None:
                self._board.changed([attempt.number])
                over.append(attempt)
        return over

    async def _report(self, reports: Sequence[Report]) -> set[int]:
        while True:
            try:
                return await self._thread.run(self._store.report, reports)
            except Overloaded:
                await asyncio.sleep(_PAUSE_SECONDS)
            except Exception:  # noqa: BLE001 - a defect is for these jobs: they run again when their leases are over
                _log.exception("queue_report_failed")
                return {report.lease.number for report in reports}
