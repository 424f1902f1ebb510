"""Stream the events of jobs to subscribers, in whichever process the jobs run: stored events first, then new ones.

Only stored events are delivered. Events that this process stores are handed over in memory. For jobs that run
elsewhere, one query polls the state of all of them.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence

from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core.background_tasks import repeat
from dragoman.core.errors import JobCancelled, JobNotFound, ShuttingDown
from dragoman.core.events import Event
from dragoman.core.jobs import JobState
from dragoman.core.rate_limits import NO_LIMITS, Allowances
from dragoman.jobs.storage.reader import EventBatch, JobReader, JobSnapshot
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.values.options import REMOTE_POLL_SECONDS
from dragoman.jobs.values.payloads import unpack_error

_RETRY_AFTER_SECONDS = 5

_MAX_CONCURRENT_READS = 32
"""Subscribers that read from the database concurrently, so that other reads get their turn."""


class _Topic:
    """A job with subscribers in this process."""

    def __init__(self) -> None:
        self.subscribers = 0
        self.latest: EventBatch | None = None
        """The events that this process stored last, if it runs the job."""
        self.last_polled: tuple[JobState, int] | None = None
        """State and number of events at the last poll."""
        self.changed = asyncio.Event()
        """Set at the next change, and replaced by a new event then."""

    def batches_from(self, offset: int) -> list[EventBatch]:
        """Return the events from the number `offset` on, if they are in memory."""
        latest = self.latest
        return [latest] if latest is not None and latest.first <= offset < latest.first + len(latest.events) else []

    def notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class EventBroker:
    """Publishes events of jobs to the subscribers in this process."""

    def __init__(
        self, read_thread: DatabaseThread, reader: JobReader, write_thread: DatabaseThread, store: JobStore
    ) -> None:
        self.is_closing = False
        self._read_thread = read_thread
        self._reader = reader
        self._write_thread = write_thread
        self._store = store
        self._read_slots = asyncio.Semaphore(_MAX_CONCURRENT_READS)
        self._topics: dict[int, _Topic] = {}
        self._has_subscribers = asyncio.Event()

    def publish(self, number: int, first: int, events: Sequence[Event]) -> None:
        """Publish events that have been stored; `first` is the number of the first one."""
        topic = self._topics.get(number)
        if topic is not None:
            topic.latest = EventBatch(first, list(events))
            topic.notify()

    def notify(self, numbers: Iterable[int]) -> None:
        """Wake the subscribers of jobs that have changed in another way."""
        for number in numbers:
            topic = self._topics.get(number)
            if topic is not None:
                topic.latest = None
                topic.notify()

    def close(self) -> None:
        """End the streams of jobs that have not ended, with ShuttingDown: other processes continue these jobs."""
        self.is_closing = True
        self.notify(list(self._topics))

    async def poll_remote_jobs(self, runs_here: Callable[[int], bool]) -> None:
        """Poll for changes of subscribed jobs that do not run here, until cancelled."""

        async def poll() -> None:
            await self._has_subscribers.wait()
            remote = [number for number in self._topics if not runs_here(number)]
            if remote:
                self._notify_changed(remote, await self._read_thread.run(self._reader.states, remote))

        await repeat("poll of remote jobs", poll, REMOTE_POLL_SECONDS)

    def subscribe(self, snapshot: JobSnapshot) -> "JobStream":
        """Return the stream of the job's events."""
        return JobStream(self._stream(snapshot.id, snapshot.number))

    def _notify_changed(self, numbers: Iterable[int], found: dict[int, tuple[JobState, int]]) -> None:
        for number in numbers:
            topic = self._topics.get(number)
            if topic is not None and topic.last_polled != found.get(number):
                topic.last_polled = found.get(number)
                topic.latest = None
                topic.notify()

    @contextlib.contextmanager
    def _topic(self, number: int) -> Iterator[_Topic]:
        topic = self._topics.setdefault(number, _Topic())
        topic.subscribers += 1
        self._has_subscribers.set()
        try:
            yield topic
        finally:
            topic.subscribers -= 1
            if not topic.subscribers:
                del self._topics[number]
                if not self._topics:
                    self._has_subscribers.clear()

    async def _stream(self, job_id: str, number: int) -> AsyncGenerator[Event]:
        offset = 0
        delivered = False
        with self._topic(number) as topic:
            while True:
                changed, batches = topic.changed, topic.batches_from(offset) if delivered else []
                if not batches:
                    snapshot = await self._find(job_id)
                    if snapshot.events <= offset and _check_finished(snapshot):
                        return
                    if snapshot.events <= offset:
                        await self._wait_for_change(changed)
                        continue
                    delivered = delivered or await self._mark_delivered(snapshot)
                    batches = await self._read_events(number, offset) if delivered else []
                for batch in batches:
                    for event in batch.events[offset - batch.first :]:
                        offset += 1
                        yield event

    async def _find(self, job_id: str) -> JobSnapshot:
        async with self._read_slots:
            snapshot = await self._read_thread.run(self._reader.find, job_id)
        if snapshot is None:
            raise JobNotFound(job_id)
        return snapshot

    async def _read_events(self, number: int, offset: int) -> list[EventBatch]:
        async with self._read_slots:
            return await self._read_thread.run(self._reader.events, number, offset)

    async def _mark_delivered(self, snapshot: JobSnapshot) -> bool:
        """Mark the job as delivered, so that its worker never restarts it from scratch. False: its state changed."""
        if snapshot.state not in ("queued", "running"):
            return True
        async with self._read_slots:
            return await self._write_thread.run(self._store.mark_delivered, snapshot.number)

    async def _wait_for_change(self, changed: asyncio.Event) -> None:
        if self.is_closing:
            raise ShuttingDown("The server is shutting down", _RETRY_AFTER_SECONDS)
        await changed.wait()


class JobStream:
    """Implements core.services.EventStream."""

    answered_by = None

    def __init__(self, events: AsyncGenerator[Event]) -> None:
        self._events = events

    @property
    def allowances(self) -> Allowances:
        return NO_LIMITS

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events

    async def aclose(self) -> None:
        await self._events.aclose()


def _check_finished(snapshot: JobSnapshot) -> bool:
    """Whether the job has finished. Raises its error if it failed or was cancelled."""
    if snapshot.state == "cancelled":
        raise JobCancelled(snapshot.id)
    if snapshot.state == "failed":
        assert snapshot.error is not None, "stored with the state"
        raise unpack_error(snapshot.error)
    return snapshot.state == "finished"
