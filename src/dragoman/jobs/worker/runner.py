"""Claim jobs under leases, run them in this process, and requeue those that it cannot run to their end."""

import asyncio
import contextlib
from collections.abc import Collection, Sequence

from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core.adapters import metrics_label
from dragoman.core.background_tasks import RoundErrors, repeat
from dragoman.core.errors import Overloaded
from dragoman.jobs.metrics import QueueMetrics
from dragoman.jobs.storage.reader import JobReader
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.streams.broker import EventBroker
from dragoman.jobs.values.options import (
    IDLE_POLL_SECONDS,
    LEASE_SECONDS,
    POLL_SECONDS,
    RENEW_SECONDS,
    QueueOptions,
)
from dragoman.jobs.values.rows import ClaimedJob, Requeue
from dragoman.jobs.worker.attempt_executor import AttemptExecutor
from dragoman.jobs.worker.attempts import RunningAttempt
from dragoman.jobs.worker.clock_watch import ClockWatch
from dragoman.jobs.worker.event_flusher import EventFlusher
from dragoman.jobs.worker.executor import JobExecutor
from dragoman.jobs.worker.unreadable import UnreadableJobs

_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.5, 5.0
"""How long no jobs are claimed for a model that could not run one."""

_MAX_ENDED = 256
"""Ended jobs that take no other's place while their end cannot be stored, since somebody keeps their account locked."""

_LEASE_MARGIN_SECONDS = 2.0
"""How long before the end of its lease a job is left: its engine stops before another process may start."""

_REQUEUE_TIMEOUT_SECONDS = 5.0
"""How long `run` waits at its end until the jobs are requeued. Otherwise others find them when the leases expire."""


class JobRunner:
    """Runs jobs in one process, up to `options.concurrency` concurrently."""

    def __init__(
        self,
        *,
        options: QueueOptions,
        executor: JobExecutor,
        broker: EventBroker,
        thread: DatabaseThread,
        reader: JobReader,
        store: JobStore,
        metrics: QueueMetrics,
    ) -> None:
        """`thread` is used for `reader` and `store`, so that the runner never waits behind reads of clients."""
        self._options = options
        self._executor = executor
        self._broker = broker
        self._reader = reader
        self._thread = thread
        self._store = store
        self._metrics = metrics
        self._flusher = EventFlusher(thread, store, broker, executor.fingerprint)
        self._attempt_executor = AttemptExecutor(
            executor=executor,
            thread=thread,
            reader=reader,
            store=store,
            mark_dirty=self._flusher.mark_dirty,
            pause=self._pause,
            leave=self._leave,
        )
        self._clock_watch = ClockWatch()
        self._unreadable = UnreadableJobs()
        self._attempts: dict[int, RunningAttempt] = {}
        self._expiry: asyncio.TimerHandle | None = None
        self._paused_until: dict[str, float] = {}
        self._rotation = 0
        self._retiring = asyncio.Event()
        self._stopping = asyncio.Event()
        self._wake_event = asyncio.Event()
        self._leaving: set[int] = set()
        """Jobs that are being requeued."""
        self._idle = asyncio.Event()

    @property
    def running(self) -> int:
        """Number of jobs that run in this process."""
        return len(self._attempts)

    def is_running(self, number: int) -> bool:
        """Whether the job runs in this process."""
        return number in self._attempts

    def wake(self) -> None:
        """Poll without waiting for the interval: a job was submitted here, or a slot was freed."""
        self._wake_event.set()

    def retire(self) -> None:
        """Claim no more jobs, and requeue those that others can go on with. The rest run until `stop`."""
        self._retiring.set()
        self.wake()

    def stop(self) -> None:
        """Claim no more jobs, and requeue those that run."""
        self._stopping.set()
        self.retire()

    def drop(self, numbers: Collection[int]) -> None:
        """Stop running jobs that do not belong to this process any more."""
        for number in numbers:
            attempt = self._attempts.get(number)
            if attempt is not None:
                self._remove(attempt)

    async def run(self) -> None:
        """Claim and run jobs until `retire` or `stop`, and then requeue the running ones."""
        renewals = repeat("renewal of leases", self._renew, RENEW_SECONDS)
        loops = [asyncio.create_task(loop) for loop in (self._flush_loop(), renewals)]
        try:
            await self._claim_loop()
            await self._requeue([attempt for attempt in self._attempts.values() if self._can_go_on(attempt)])
            await self._stopping.wait()
            await self._requeue(list(self._attempts.values()))
        finally:
            if self._expiry is not None:
                self._expiry.cancel()
            for task in [*loops, *(attempt.task for attempt in self._attempts.values() if attempt.task)]:
                task.cancel()
            self._attempts.clear()
            await asyncio.wait(loops)

    async def _claim_loop(self) -> None:
        errors = RoundErrors("queue poll")
        while not self._retiring.is_set():
            self._wake_event.clear()
            pause = POLL_SECONDS
            try:
                if not await self._poll():
                    pause = IDLE_POLL_SECONDS
                errors.succeed()
            except Overloaded:
                await asyncio.sleep(_MIN_PAUSE_SECONDS)
            except Exception:  # noqa: BLE001 - if this loop ended, jobs would wait for ever
                errors.fail()
                await asyncio.sleep(_MIN_PAUSE_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake_event.wait()

    async def _poll(self) -> bool:
        """Reap overdue jobs, drop lost ones and claim new ones. Return whether any job waited or ran, anywhere."""
        pending = await self._thread.run(self._reader.pending_work)
        if self._clock_watch.is_steady(pending.clock) and pending.has_overdue:
            self._broker.notify(await self._thread.run(self._store.reap, pending.clock.wall))
        if self._attempts:
            await self._check_leases()
        ended = sum(attempt.outcome is not None for attempt in self._attempts.values())
        free = self._options.concurrency - len(self._attempts) + min(ended, _MAX_ENDED)
        models = self._models_round_robin()
        if free > 0 and models and (pending.has_waiting or pending.has_overdue):
            leased_until = _lease_end()
            # A claim that came about has to be known, however late, or nobody would run its jobs for a lease's time.
            for job in await self._thread.run_slow(self._store.claim, models, free, self._unreadable.numbers):
                self._start(job, leased_until)
        return pending.has_waiting or pending.has_running

    async def _check_leases(self) -> None:
        """Drop jobs that other processes have cancelled or taken over."""
        tokens = {number: attempt.job.lease.token for number, attempt in self._attempts.items()}
        found = await self._thread.run(self._reader.leases, list(tokens))
        self.drop([number for number, token in tokens.items() if found.get(number) != token])

    def _models_round_robin(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        models = [model for model in self._executor.models() if self._paused_until.get(model, 0) <= now]
        self._rotation += 1
        first = self._rotation % len(models) if models else 0
        return models[first:] + models[:first]

    def _start(self, job: ClaimedJob, leased_until: float) -> None:
        attempt = RunningAttempt(job, leased_until)
        self.drop([attempt.number])  # Drops an earlier attempt of this process that has lost its lease.
        self._attempts[attempt.number] = attempt
        self._drop_expired()
        if attempt.number not in self._attempts:
            return
        attempt.task = asyncio.create_task(self._attempt_executor.run(attempt))
        self._broker.notify([attempt.number])

    def _pause(self, model: str, seconds: float) -> None:
        pause = min(_MAX_PAUSE_SECONDS, max(_MIN_PAUSE_SECONDS, seconds))
        self._paused_until[model] = asyncio.get_running_loop().time() + pause

    def _leave(self, job: ClaimedJob) -> None:
        if not self._unreadable.add(job.lease.number):
            self._pause(job.model, _MAX_PAUSE_SECONDS)

    def _remove(self, attempt: RunningAttempt) -> None:
        if self._attempts.get(attempt.number) is attempt:
            del self._attempts[attempt.number]
            self._metrics.count_attempt(metrics_label(attempt.job.model), attempt.outcome)
        if attempt.task is not None:
            attempt.task.cancel()
        if self._leaving.isdisjoint(self._attempts):
            self._idle.set()
        self.wake()

    async def _flush_loop(self) -> None:
        while True:
            await self._flusher.wait_due()
            dirty = [attempt for attempt in self._attempts.values() if attempt.is_dirty]
            for attempt in await self._flusher.flush(dirty):
                self._remove(attempt)

    async def _renew(self) -> None:
        attempts = list(self._attempts.values())
        try:
            if attempts:
                leased_until = _lease_end()
                leases = [attempt.job.lease for attempt in attempts]
                self.drop(await self._thread.run(self._store.renew, leases))
                for attempt in attempts:
                    attempt.leased_until = leased_until
        finally:
            for attempt in self._attempts.values():
                self._flusher.mark_dirty(attempt)

    def _drop_expired(self) -> None:
        """Leave the jobs that other processes may soon take over, and look again when the next lease would end."""
        now = asyncio.get_running_loop().time()
        self.drop([number for number, attempt in self._attempts.items() if attempt.leased_until <= now])
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = None
        if self._attempts:
            next_end = min(attempt.leased_until for attempt in self._attempts.values())
            self._expiry = asyncio.get_running_loop().call_at(next_end, self._drop_expired)

    def _can_go_on(self, attempt: RunningAttempt) -> bool:
        """Whether another process loses nothing by going on with the attempt."""
        return not attempt.first or (attempt.is_resumable and self._executor.fingerprint(attempt.job.model) is not None)

    async def _requeue(self, attempts: Sequence[RunningAttempt]) -> None:
        self._leaving = {attempt.number for attempt in attempts}
        tasks = [attempt.task for attempt in attempts if attempt.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for attempt in attempts:
            attempt.outcome = attempt.outcome or Requeue()
            self._flusher.mark_dirty(attempt)
        self._idle.clear()
        if not self._leaving.isdisjoint(self._attempts):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REQUEUE_TIMEOUT_SECONDS):
                    await self._idle.wait()


def _lease_end() -> float:
    """Return until when jobs may run whose lease begins now or later, on the event loop's clock."""
    return asyncio.get_running_loop().time() + LEASE_SECONDS - _LEASE_MARGIN_SECONDS
