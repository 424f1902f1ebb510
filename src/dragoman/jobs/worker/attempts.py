"""The state of one job that this process runs: events that are not stored yet, and the outcome."""

import asyncio

from dragoman.core.events import Event
from dragoman.jobs.values.rows import AttemptOutcome, ClaimedJob, JobReport
from dragoman.jobs.worker.executor import JobExecution

MAX_PENDING_EVENTS = 512
"""Events that may wait to be stored. At this limit the engine has to wait."""


class RunningAttempt:
    """A buffer between the job's own task, which adds events, and the flusher, which takes reports."""

    def __init__(self, job: ClaimedJob, leased_until: float) -> None:
        """`leased_until` is on the event loop's clock."""
        self.job = job
        self.leased_until = leased_until
        self.task: asyncio.Task[None] | None = None
        self.execution: JobExecution | None = None
        """None: it has not started."""
        self.is_resumable = False
        """Whether another attempt could resume after this one."""
        self.outcome: AttemptOutcome | None = None
        self.first = job.events
        """Number of the first event that is not stored."""
        self._pending: list[Event] = []
        # Without stored events a new attempt starts from nothing, whatever the last one had generated.
        self._stored_tokens = job.completion_tokens if job.events else 0
        self._reported_tokens = self._stored_tokens
        self._has_room = asyncio.Event()
        self._has_room.set()

    @property
    def number(self) -> int:
        """The job's number."""
        return self.job.lease.number

    @property
    def is_urgent(self) -> bool:
        """Whether a client may wait for the pending data: it contains the first event or the end."""
        return self.outcome is not None or (bool(self._pending) and not self.first)

    @property
    def is_dirty(self) -> bool:
        """Whether there is anything to store."""
        return bool(self._pending) or self.outcome is not None or self._generated != self._reported_tokens

    def add(self, event: Event) -> None:
        """Add an event to store with the next report."""
        self._pending.append(event)
        if len(self._pending) >= MAX_PENDING_EVENTS:
            self._has_room.clear()

    async def wait_for_room(self) -> None:
        """Wait until another event may be added."""
        await self._has_room.wait()

    def reset_stored(self) -> None:
        """Start from nothing, after the stored events were discarded."""
        self.first = 0
        self._stored_tokens = 0

    def take_report(self, fingerprint: str | None) -> JobReport:
        """Remove and return everything to store now. `fingerprint` is that of the model that generates."""
        events, self._pending = self._pending, []
        self._has_room.set()
        self._reported_tokens = self._generated
        report = JobReport(
            lease=self.job.lease,
            first=self.first,
            events=events,
            completion_tokens=self._reported_tokens,
            fingerprint=fingerprint,
            is_resumable=self.is_resumable and fingerprint is not None,
            outcome=self.outcome,
        )
        self.first += len(events)
        return report

    @property
    def _generated(self) -> int:
        return max(self._stored_tokens, 0 if self.execution is None else self.execution.generated_tokens)
