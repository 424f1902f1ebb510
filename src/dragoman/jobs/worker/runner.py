"""Running jobs: claimed under a lease, answered by this process's engines, given back when that cannot be."""

import asyncio
import contextlib
import zlib
from collections.abc import Collection, Sequence

import msgspec
import structlog

from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core.errors import DragomanError, EngineFailed, ModelLoading, Overloaded
from dragoman.core.events import Event, Usage
from dragoman.core.request import GenerationRequest
from dragoman.jobs.metrics import QueueMetrics
from dragoman.jobs.storage.reader import JobReader
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.streams.broker import EventBroker
from dragoman.jobs.values.options import LEASE_SECONDS, POLL_SECONDS, RENEW_SECONDS, QueueOptions
from dragoman.jobs.values.payloads import unpack_requests
from dragoman.jobs.values.rows import ClaimedJob, JobResult, Requeue
from dragoman.jobs.worker.attempts import RunningAttempt
from dragoman.jobs.worker.event_flusher import EventFlusher
from dragoman.jobs.worker.executor import JobExecutor
from dragoman.jobs.worker.resume import ReplayFilter, can_resume, resumed_requests

_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.5, 5.0
"""Seconds in which no jobs are begun of a model that could not take one."""

_REQUEUE_TIMEOUT_SECONDS = 5.0
"""How long the end waits for the database to take the jobs back; others find them later if it does not."""

_log = structlog.get_logger(__name__)


class JobRunner:
    """One process's part in running the jobs."""

    def __init__(
        self,
        options: QueueOptions,
        executor: JobExecutor,
        broker: EventBroker,
        thread: DatabaseThread,
        reader: JobReader,
        store: JobStore,
        metrics: QueueMetrics,
    ) -> None:
        """`thread` is where `reader` and `store` are used: no client's questions are before the runner's there."""
        self._options = options
        self._executor = executor
        self._broker = broker
        self._reader = reader
        self._thread = thread
        self._store = store
        self._metrics = metrics
        self._flusher = EventFlusher(thread, store, broker, executor.fingerprint)
        self._attempts: dict[int, RunningAttempt] = {}
        self._paused_until: dict[str, float] = {}
        self._rotation = 0
        self._stopping = asyncio.Event()
        self._wake_event = asyncio.Event()
        self._idle = asyncio.Event()

    @property
    def running(self) -> int:
        """How many jobs run in this process."""
        return len(self._attempts)

    def is_running(self, number: int) -> bool:
        """Whether the job runs in this process."""
        return number in self._attempts

    def wake(self) -> None:
        """Something may be to do: a job was submitted here, or a place is free."""
        self._wake_event.set()

    def stop(self) -> None:
        """Begin no more jobs, and give back those that run."""
        self._stopping.set()
        self.wake()

    def drop(self, numbers: Collection[int]) -> None:
        """Stop working on jobs that are not this process's any more."""
        for number in numbers:
            attempt = self._attempts.get(number)
            if attempt is not None:
                self._remove(attempt)

    async def run(self) -> None:
        """Until it is stopped, and then until what runs was given back."""
        loops = [asyncio.create_task(loop) for loop in (self._flush_loop(), self._renew_loop())]
        try:
            await self._claim_loop()
            await self._requeue_all()
        finally:
            for task in [*loops, *(attempt.task for attempt in self._attempts.values() if attempt.task)]:
                task.cancel()
            await asyncio.wait(loops)

    async def _claim_loop(self) -> None:
        while not self._stopping.is_set():
            self._wake_event.clear()
            try:
                await self._poll()
            except Overloaded:
                await asyncio.sleep(_MIN_PAUSE_SECONDS)
            except Exception:  # noqa: BLE001 - without this loop every job would wait for ever
                _log.exception("queue_poll_failed")
                await asyncio.sleep(_MIN_PAUSE_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake_event.wait()

    async def _poll(self) -> None:
        """Do what there is to do for the queue."""
        pending = await self._thread.run(self._reader.pending_work)
        if pending.has_overdue:
            self._broker.notify(await self._thread.run(self._store.reap))
        if self._attempts:
            await self._check_leases()
        free = self._options.concurrency - len(self._attempts)
        models = self._models_round_robin()
        if free > 0 and models and (pending.has_waiting or pending.has_overdue):
            for job in await self._thread.run(self._store.claim, models, free):
                self._start(job)

    async def _check_leases(self) -> None:
        """Find what was cancelled by other processes."""
        tokens = {number: attempt.job.lease.token for number, attempt in self._attempts.items()}
        found = await self._thread.run(self._reader.leases, list(tokens))
        self.drop([number for number, token in tokens.items() if found.get(number) != token])

    def _models_round_robin(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        models = [model for model in self._executor.models() if self._paused_until.get(model, 0) <= now]
        self._rotation += 1
        first = self._rotation % len(models) if models else 0
        return models[first:] + models[:first]

    def _start(self, job: ClaimedJob) -> None:
        attempt = RunningAttempt(job)
        self.drop([attempt.number])  # An earlier attempt of this process, whose lease was lost.
        self._attempts[attempt.number] = attempt
        attempt.task = asyncio.create_task(self._run_attempt(attempt))
        self._broker.notify([attempt.number])

    async def _run_attempt(self, attempt: RunningAttempt) -> None:
        """The job's own task."""
        attempt.outcome = await self._run_to_outcome(attempt)
        self._flusher.mark_dirty(attempt)

    async def _run_to_outcome(self, attempt: RunningAttempt) -> JobResult | Requeue:
        job = attempt.job
        try:
            return await self._execute(attempt, unpack_requests(job.requests))
        except Overloaded as error:
            self._pause(job.model, error.retry_after)
            return Requeue()
        except EngineFailed as error:
            self._pause(job.model, _MIN_PAUSE_SECONDS)
            return Requeue(error)
        except DragomanError as error:
            return JobResult("failed", error=error)
        except (msgspec.MsgspecError, zlib.error) as error:
            _log.error("job_request_undecodable", job=job.id, error=str(error))
            return JobResult("failed", error=EngineFailed("The request was stored by another version of the server"))
        except Exception:  # noqa: BLE001 - a defect is for the job at hand
            _log.exception("job_failed_unexpectedly", job=job.id)
            return JobResult("failed", error=EngineFailed("The server failed to run the request"))

    async def _execute(self, attempt: RunningAttempt, requests: Sequence[GenerationRequest]) -> JobResult:
        job = attempt.job
        attempt.is_resumable = can_resume(requests)
        stored = await self._load_events(job)
        usage = next((event for event in stored if isinstance(event, Usage)), None)
        if usage is not None:  # It was told to its end, and only that was not written.
            return JobResult("finished", usage)
        if stored:
            if attempt.is_resumable and job.fingerprint == await self._load_fingerprint(job.model, requests):
                requests = resumed_requests(requests, stored)
            elif await self._thread.run(self._store.discard_events, job.lease):
                attempt.discard_stored()
                stored = []
            else:
                message = "The engine stopped, and cannot go on with an answer that somebody may have read a part of"
                return JobResult("failed", error=EngineFailed(message))
        return await self._generate(attempt, requests, ReplayFilter(stored))

    async def _generate(
        self, attempt: RunningAttempt, requests: Sequence[GenerationRequest], stored: ReplayFilter
    ) -> JobResult:
        attempt.execution = self._executor.run(attempt.job.model, requests, attempt.job.priority)
        usage: Usage | None = None
        async with contextlib.aclosing(attempt.execution) as events:
            async for event in events:
                if not stored.is_stored(event):
                    attempt.add(event)
                    self._flusher.mark_dirty(attempt)
                    await attempt.wait_for_room()
                if isinstance(event, Usage):
                    usage = event
        if usage is None:
            raise EngineFailed("The engine ended the answer without its usage")
        return JobResult("finished", usage)

    async def _load_events(self, job: ClaimedJob) -> list[Event]:
        events: list[Event] = []
        while len(events) < job.events:
            for batch in await self._thread.run(self._reader.events, job.lease.number, len(events)):
                events += batch.events[len(events) - batch.first :]
        return events

    async def _load_fingerprint(self, model: str, requests: Sequence[GenerationRequest]) -> str:
        """That of the model, once it is known. Raises core.errors."""
        if self._executor.fingerprint(model) is None:
            await self._executor.load_model(model, requests)
        fingerprint = self._executor.fingerprint(model)
        if fingerprint is None:
            raise ModelLoading("The model is being loaded", retry_after=1)
        return fingerprint

    def _pause(self, model: str, seconds: float) -> None:
        pause = min(_MAX_PAUSE_SECONDS, max(_MIN_PAUSE_SECONDS, seconds))
        self._paused_until[model] = asyncio.get_running_loop().time() + pause

    def _remove(self, attempt: RunningAttempt) -> None:
        if self._attempts.get(attempt.number) is attempt:
            del self._attempts[attempt.number]
            self._metrics.count_attempt(attempt.job.model, attempt.outcome)
        if attempt.task is not None:
            attempt.task.cancel()
        if not self._attempts:
            self._idle.set()
        self.wake()

    async def _flush_loop(self) -> None:
        while True:
            await self._flusher.wait_due()
            dirty = [attempt for attempt in self._attempts.values() if attempt.is_dirty]
            for attempt in await self._flusher.flush(dirty):
                self._remove(attempt)

    async def _renew_loop(self) -> None:
        clock = asyncio.get_running_loop().time
        renewed = clock()
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            leases = [attempt.job.lease for attempt in self._attempts.values()]
            try:
                if leases:
                    self.drop(await self._thread.run(self._store.renew, leases))
                renewed = clock()
            except Overloaded:
                if clock() - renewed > LEASE_SECONDS:
                    self.drop(list(self._attempts))  # Others may run them by now.
            for attempt in self._attempts.values():
                self._flusher.mark_dirty(attempt)

    async def _requeue_all(self) -> None:
        attempts = list(self._attempts.values())
        tasks = [attempt.task for attempt in attempts if attempt.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for attempt in attempts:
            attempt.outcome = attempt.outcome or Requeue()
            self._flusher.mark_dirty(attempt)
        self._idle.clear()
        if self._attempts:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REQUEUE_TIMEOUT_SECONDS):
                    await self._idle.wait()
