"""Running jobs: claimed under a lease, answered by this process's engines, given back when that cannot be."""

import asyncio
import contextlib
import zlib
from collections.abc import Collection, Sequence

import msgspec
import structlog

from dragoman.accounts.database_thread import DatabaseThread
from dragoman.core.errors import DragomanError, EngineFailed, ModelLoading, Overloaded
from dragoman.core.events import Event, Usage
from dragoman.core.request import GenerationRequest
from dragoman.jobs.attempts import RunningAttempt
from dragoman.jobs.follow import Board
from dragoman.jobs.meter import QueueMeter
from dragoman.jobs.options import LEASE_SECONDS, POLL_SECONDS, RENEW_SECONDS, QueueOptions
from dragoman.jobs.payloads import unpack_requests
from dragoman.jobs.progress import StoredEvents, can_go_on, going_on
from dragoman.jobs.reading import JobReader
from dragoman.jobs.rows import ClaimedJob, Ending, Release
from dragoman.jobs.store import JobStore
from dragoman.jobs.workshop import Workshop
from dragoman.jobs.writer import Writer

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
"""Seconds in which no jobs are begun of a model that could not take one."""

_PATIENCE_SECONDS = 5.0
"""How long the end waits for the database to take the jobs back; others find them later if it does not."""

_log = structlog.get_logger(__name__)


class Runner:
    """One process's part in running the jobs."""

    def __init__(
        self,
        options: QueueOptions,
        workshop: Workshop,
        board: Board,
        thread: DatabaseThread,
        reader: JobReader,
        store: JobStore,
        meter: QueueMeter,
    ) -> None:
        """`thread` is where `reader` and `store` are used: no client's questions are before the runner's there."""
        self._options = options
        self._workshop = workshop
        self._board = board
        self._reader = reader
        self._thread = thread
        self._store = store
        self._meter = meter
        self._writer = Writer(thread, store, board, workshop.fingerprint)
        self._attempts: dict[int, RunningAttempt] = {}
        self._paused_until: dict[str, float] = {}
        self._turn = 0
        self._stopping = asyncio.Event()
        self._woken = asyncio.Event()
        self._none_left = asyncio.Event()

    @property
    def running(self) -> int:
        """How many jobs run in this process."""
        return len(self._attempts)

    def runs(self, number: int) -> bool:
        """Whether the job runs in this process."""
        return number in self._attempts

    def wake(self) -> None:
        """Something may be to do: a job was submitted here, or a place is free."""
        self._woken.set()

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
        loops = [asyncio.create_task(loop) for loop in (self._write_for_ever(), self._renew_for_ever())]
        try:
            await self._claim_until_stopped()
            await self._give_back()
        finally:
            for task in [*loops, *(attempt.task for attempt in self._attempts.values() if attempt.task)]:
                task.cancel()
            await asyncio.wait(loops)

    async def _claim_until_stopped(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                await self._look()
            except Overloaded:
                await asyncio.sleep(_SHORTEST_PAUSE)
            except Exception:  # noqa: BLE001 - without this loop every job would wait for ever
                _log.exception("queue_look_failed")
                await asyncio.sleep(_SHORTEST_PAUSE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._woken.wait()

    async def _look(self) -> None:
        """Do what there is to do for the queue."""
        chore = await self._thread.run(self._reader.chore)
        if chore.overdue:
            self._board.changed(await self._thread.run(self._store.overlook))
        if self._attempts:
            await self._check_leases()
        free = self._options.concurrency - len(self._attempts)
        models = self._models_in_turn()
        if free > 0 and models and (chore.waiting or chore.overdue):
            for job in await self._thread.run(self._store.claim, models, free):
                self._begin(job)

    async def _check_leases(self) -> None:
        """Find what was cancelled by other processes."""
        held = {number: attempt.job.lease.token for number, attempt in self._attempts.items()}
        found = await self._thread.run(self._reader.leases, list(held))
        self.drop([number for number, token in held.items() if found.get(number) != token])

    def _models_in_turn(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        models = [model for model in self._workshop.models() if self._paused_until.get(model, 0) <= now]
        self._turn += 1
        first = self._turn % len(models) if models else 0
        return models[first:] + models[:first]

    def _begin(self, job: ClaimedJob) -> None:
        attempt = RunningAttempt(job)
        self.drop([attempt.number])  # An earlier attempt of this process, whose lease was lost.
        self._attempts[attempt.number] = attempt
        attempt.task = asyncio.create_task(self._work(attempt))
        self._board.changed([attempt.number])

    async def _work(self, attempt: RunningAttempt) -> None:
        """The job's own task."""
        attempt.outcome = await self._outcome(attempt)
        self._writer.notice(attempt)

    async def _outcome(self, attempt: RunningAttempt) -> Ending | Release:
        job = attempt.job
        try:
            return await self._answer(attempt, unpack_requests(job.requests))
        except Overloaded as error:
            self._pause(job.model, error.retry_after)
            return Release()
        except EngineFailed as error:
            self._pause(job.model, _SHORTEST_PAUSE)
            return Release(error)
        except DragomanError as error:
            return Ending("failed", error=error)
        except (msgspec.MsgspecError, zlib.error) as error:
            _log.error("queue_request_unreadable", job=job.id, error=str(error))
            return Ending("failed", error=EngineFailed("The request was stored by another version of the server"))
        except Exception:  # noqa: BLE001 - a defect is for the job at hand
            _log.exception("queue_job_failed", job=job.id)
            return Ending("failed", error=EngineFailed("The server failed to run the request"))

    async def _answer(self, attempt: RunningAttempt, requests: Sequence[GenerationRequest]) -> Ending:
        job = attempt.job
        attempt.goes_on = can_go_on(requests)
        stored = await self._stored(job)
        usage = next((event for event in stored if isinstance(event, Usage)), None)
        if usage is not None:  # It was told to its end, and only that was not written.
            return Ending("finished", usage)
        if stored:
            if attempt.goes_on and job.fingerprint == await self._fingerprint(job.model, requests):
                requests = going_on(requests, stored)
            elif await self._thread.run(self._store.restart, job.lease):
                attempt.restarted()
                stored = []
            else:
                message = "The engine stopped, and cannot go on with an answer that somebody may have read a part of"
                return Ending("failed", error=EngineFailed(message))
        return await self._tell(attempt, requests, StoredEvents(stored))

    async def _tell(
        self, attempt: RunningAttempt, requests: Sequence[GenerationRequest], stored: StoredEvents
    ) -> Ending:
        attempt.run = self._workshop.run(attempt.job.model, requests, attempt.job.priority)
        usage: Usage | None = None
        async with contextlib.aclosing(attempt.run) as events:
            async for event in events:
                if not stored.is_stored(event):
                    attempt.add(event)
                    self._writer.notice(attempt)
                    await attempt.has_room()
                if isinstance(event, Usage):
                    usage = event
        if usage is None:
            raise EngineFailed("The engine ended the answer without its usage")
        return Ending("finished", usage)

    async def _stored(self, job: ClaimedJob) -> list[Event]:
        events: list[Event] = []
        while len(events) < job.events:
            for batch in await self._thread.run(self._reader.events, job.lease.number, len(events)):
                events += batch.events[len(events) - batch.first :]
        return events

    async def _fingerprint(self, model: str, requests: Sequence[GenerationRequest]) -> str:
        """That of the model, once it is known. Raises core.errors."""
        if self._workshop.fingerprint(model) is None:
            await self._workshop.wake(model, requests)
        fingerprint = self._workshop.fingerprint(model)
        if fingerprint is None:
            raise ModelLoading("The model is being loaded", retry_after=1)
        return fingerprint

    def _pause(self, model: str, seconds: float) -> None:
        pause = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, seconds))
        self._paused_until[model] = asyncio.get_running_loop().time() + pause

    def _remove(self, attempt: RunningAttempt) -> None:
        if self._attempts.get(attempt.number) is attempt:
            del self._attempts[attempt.number]
            self._meter.attempted(attempt.job.model, attempt.outcome)
        if attempt.task is not None:
            attempt.task.cancel()
        if not self._attempts:
            self._none_left.set()
        self.wake()

    async def _write_for_ever(self) -> None:
        while True:
            await self._writer.due()
            news = [attempt for attempt in self._attempts.values() if attempt.has_news]
            for attempt in await self._writer.write(news):
                self._remove(attempt)

    async def _renew_for_ever(self) -> None:
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
                self._writer.notice(attempt)

    async def _give_back(self) -> None:
        attempts = list(self._attempts.values())
        tasks = [attempt.task for attempt in attempts if attempt.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for attempt in attempts:
            attempt.outcome = attempt.outcome or Release()
            self._writer.notice(attempt)
        self._none_left.clear()
        if self._attempts:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._none_left.wait()
