"""Execute one attempt: resume or restart the job on an engine, and turn every error into an outcome."""

import contextlib
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core import logs
from dragoman.core.bounded_dicts import put_last
from dragoman.core.errors import DragomanError, EngineFailed, ModelLoading, Overloaded, ReplicaFailed
from dragoman.core.events import Event, Usage
from dragoman.core.tasks import Task
from dragoman.jobs.storage.reader import JobReader
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.values.payloads import off_the_loop, unpack_requests
from dragoman.jobs.values.rows import AttemptOutcome, ClaimedJob, JobResult, Requeue
from dragoman.jobs.worker.attempts import RunningAttempt
from dragoman.jobs.worker.executor import JobExecutor
from dragoman.jobs.worker.resume import ReplayFilter, can_resume, resumed_requests

_MAX_REFUSALS = 10_000

_log = logs.get_logger(__name__)


class AttemptExecutor:
    """Runs the attempts of one process, each in a task of its own."""

    def __init__(
        self,
        *,
        executor: JobExecutor,
        thread: DatabaseThread,
        reader: JobReader,
        store: JobStore,
        mark_dirty: Callable[[RunningAttempt], None],
        pause: Callable[[str, float], None],
        leave: Callable[[ClaimedJob], None],
    ) -> None:
        """`mark_dirty` is called when an attempt has something to store.

        `pause` is called with a model and seconds when the model cannot run a job now, `leave` with a job that only a
        newer version of dragoman can run.
        """
        self._executor = executor
        self._thread = thread
        self._reader = reader
        self._store = store
        self._mark_dirty = mark_dirty
        self._pause = pause
        self._leave = leave
        self._refusals: OrderedDict[str, int] = OrderedDict()
        """How many requests a replica had answered when it refused a job last."""

    async def run(self, attempt: RunningAttempt) -> None:
        """Run the attempt to its outcome, adding its events on the way. Raises nothing but CancelledError."""
        attempt.outcome = await self._run_to_outcome(attempt)
        self._mark_dirty(attempt)

    async def _run_to_outcome(self, attempt: RunningAttempt) -> AttemptOutcome:
        job = attempt.job
        try:
            return await self._execute(attempt, await off_the_loop(unpack_requests, job.requests))
        except Overloaded as error:
            self._pause(job.model, error.retry_after)
            return Requeue()
        except EngineFailed as error:
            self._pause(job.model, 0)
            return Requeue(None if self._is_blameless(job, error) else error)
        except DragomanError as error:
            return JobResult("failed", error=error)
        except (msgspec.MsgspecError, zlib.error) as error:
            _log.error("job_undecodable", job=job.id, error=str(error))
            self._leave(job)
            return Requeue()
        except Exception:  # noqa: BLE001 - a defect fails this job only
            _log.exception("job_failed_unexpectedly", job=job.id)
            return JobResult("failed", error=EngineFailed("The server failed to run the request"))

    def _is_blameless(self, job: ClaimedJob, error: EngineFailed) -> bool:
        """Whether the job cannot be the cause: nobody has received it, or nobody else's is answered either."""
        if not isinstance(error, ReplicaFailed) or error.fault not in ("refused", "configuration"):
            return False
        if (refused_by := error.refused_by) is None:
            return True
        key = f"{job.id} {refused_by.name}"
        before = self._refusals.get(key)
        put_last(self._refusals, key, refused_by.successes, _MAX_REFUSALS)
        return before is None or before == refused_by.successes

    async def _execute(self, attempt: RunningAttempt, requests: Sequence[Task]) -> JobResult:
        job = attempt.job
        attempt.is_resumable = can_resume(requests)
        stored = await self._load_events(job)
        usage = next((event for event in stored if isinstance(event, Usage)), None)
        if usage is not None:  # The answer is complete, and only the end of the job was not stored.
            return JobResult("finished", usage)
        if stored:
            can_go_on = attempt.is_resumable and job.fingerprint is not None
            if can_go_on and job.fingerprint == await self._load_fingerprint(job.model, requests):
                requests = resumed_requests(requests, stored)
            elif await self._thread.run(self._store.discard_events, job.lease):
                attempt.reset_stored()
                stored = []
            else:
                message = "The engine stopped, and cannot go on with an answer that somebody may have read a part of"
                return JobResult("failed", error=EngineFailed(message))
        return await self._generate(attempt, requests, ReplayFilter(stored))

    async def _generate(self, attempt: RunningAttempt, requests: Sequence[Task], stored: ReplayFilter) -> JobResult:
        attempt.execution = self._executor.run(attempt.job, requests)
        usage: Usage | None = None
        async with contextlib.aclosing(attempt.execution) as events:
            async for event in events:
                if not stored.is_stored(event):
                    attempt.add(event)
                    self._mark_dirty(attempt)
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

    async def _load_fingerprint(self, model: str, requests: Sequence[Task]) -> str:
        """Return the model's fingerprint, loading the model if needed. Raises core.errors."""
        if self._executor.fingerprint(model) is None:
            await self._executor.load_model(model, requests)
        fingerprint = self._executor.fingerprint(model)
        if fingerprint is None:
            raise ModelLoading("The model is being loaded", retry_after=1)
        return fingerprint
