"""One process's queue: it takes jobs in, runs some, and tells of all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from dragoman.accounts.database import Database
from dragoman.accounts.database_thread import DatabaseThread
from dragoman.core.errors import JobNotFound, Overloaded
from dragoman.core.jobs import Job
from dragoman.jobs.depths import Depth, Depths
from dragoman.jobs.errors import unpack_error
from dragoman.jobs.follow import Board, Following
from dragoman.jobs.intake import Intake
from dragoman.jobs.meter import QueueMeter
from dragoman.jobs.options import QueueOptions
from dragoman.jobs.payloads import unpack_form
from dragoman.jobs.reading import JobFacts, JobReader
from dragoman.jobs.retention import AT_ONCE, SWEEP_SECONDS, Retention
from dragoman.jobs.rows import Submission
from dragoman.jobs.runner import Runner
from dragoman.jobs.statistics import Estimates
from dragoman.jobs.store import JobStore
from dragoman.jobs.webhooks.options import NO_WEBHOOKS, WebhookOptions, check_webhook
from dragoman.jobs.workshop import Workshop

_MOST_READERS = 10_000
"""Questions that may wait for the database at once."""

_MOST_SWEEPS = 100
"""One after the other; others write in between."""


class JobQueue:
    """To be used within `opened`. All processes that use the database see the same jobs. Raises Overloaded when the
    database does not answer."""

    def __init__(
        self, database: Database, options: QueueOptions, process_id: int, webhooks: WebhookOptions = NO_WEBHOOKS
    ) -> None:
        """`process_id` is what people find beside the jobs that this process runs."""
        self._database = database
        self._options = options
        self._webhooks = webhooks
        self._reading = DatabaseThread(database, most_waiting=_MOST_READERS)
        self._writing = DatabaseThread(database)
        self._reader = JobReader(database)
        self._store = JobStore(database, options, process_id)
        self._board = Board(self._reading, self._reader, self._writing, self._store)
        self._intake = Intake(self._reading, self._reader, self._writing, self._store, options.max_waiting)
        self._estimates = Estimates(self._reading, self._reader, options.concurrency)
        self._depths = Depths(self._reading, database)
        self._retention = Retention(database, options)
        self._runner: Runner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.asynccontextmanager
    async def opened(self, workshop: Workshop, meter: QueueMeter) -> AsyncIterator[None]:
        """Within the block jobs are taken in and run; its end gives back those that run, for others or for later."""
        self._loop = asyncio.get_running_loop()
        self._runner = runner = Runner(
            self._options, workshop, self._board, self._writing, self._reader, self._store, meter
        )
        running = asyncio.create_task(runner.run())
        forever = (self._board.watch(runner.runs), self._sweep_for_ever(), self._tell_webhooks(meter))
        others = [asyncio.create_task(task) for task in forever]
        try:
            yield
        finally:
            self._stop()
            self._loop = None
            await asyncio.wait([running])
            for task in others:
                task.cancel()
            await asyncio.wait(others)
            await self._intake.close()
            await self._writing.run(self._store.close)
            await asyncio.to_thread(self._close_threads)
            await running

    @property
    def running(self) -> int:
        """How many jobs this process runs."""
        return 0 if self._runner is None else self._runner.running

    def drain(self) -> None:
        """Begin no more jobs and give back those that run; to be called from anywhere, a signal's handler too."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop)

    async def submit(self, submission: Submission) -> Job:
        """Accept a request; when this returns it survives a loss of power.

        Raises Overloaded when the queue is full, IdempotencyConflict, BadRequest for a webhook that would never be told
        anything, and the refusals of the ledger.
        """
        draft = submission.draft
        if draft.webhook is not None:
            check_webhook(draft.webhook, self._webhooks)
        eta = 0
        with contextlib.suppress(Overloaded):  # It may be accepted all the same.
            eta = await self._estimates.to_wait_last(submission.admission.model, draft.priority)
        accepted = await self._intake.accept(submission)
        if accepted.repeated:
            facts = await self._reading.run(self._reader.find, accepted.job_id)
            if facts is None:
                raise JobNotFound(accepted.job_id)
            return await self._job(facts, repeated=True)
        if self._runner is not None:
            self._runner.wake()
        return Job(accepted.job_id, "queued", draft.form, draft.priority, eta)

    async def job(self, job_id: str, owner: str) -> Job:
        """How the owner's job stands. Raises JobNotFound."""
        return await self._job(await self._find(job_id, owner))

    async def cancel(self, job_id: str, owner: str) -> Job:
        """Cancel the owner's job, unless it has ended. Raises JobNotFound."""
        facts = await self._find(job_id, owner)
        if await self._writing.run(self._store.cancel, facts.number):
            if self._runner is not None:
                self._runner.drop([facts.number])
            self._board.changed([facts.number])
        return await self.job(job_id, owner)

    async def follow(self, job_id: str, owner: str) -> Following:
        """The events of the owner's job. Raises JobNotFound."""
        return self._board.follow(await self._find(job_id, owner))

    async def depths(self) -> dict[str, Depth]:
        """How many jobs of each model wait and run, in all processes. Raises Overloaded."""
        return await self._depths.now()

    async def _find(self, job_id: str, owner: str) -> JobFacts:
        facts = await self._reading.run(self._reader.find, job_id)
        if facts is None or facts.owner != owner:
            raise JobNotFound(job_id)
        return facts

    async def _job(self, facts: JobFacts, *, repeated: bool = False) -> Job:
        form = await self._reading.run(self._reader.form, facts.number)
        if form is None:
            raise JobNotFound(facts.id)
        eta, place = 0, None
        if facts.state == "queued":
            place = await self._reading.run(self._reader.place, facts)
            eta = await self._estimates.to_wait(facts.model, place)
        elif facts.state == "running":
            eta = await self._estimates.to_run(facts.model, (facts.age or 0) / 1000)
        error = None if facts.error is None else unpack_error(facts.error)
        return Job(facts.id, facts.state, unpack_form(form), facts.priority, eta, place, error, repeated)

    async def _tell_webhooks(self, meter: QueueMeter) -> None:
        if self._webhooks.secret is not None:
            # Imported only here: with aiohttp they are a fifth of what a worker imports, and most send no webhooks.
            from dragoman.jobs.webhooks.dispatcher import Dispatcher
            from dragoman.jobs.webhooks.sender import Sender

            sender = Sender(self._webhooks.secret, self._webhooks.rules)
            await Dispatcher(self._database, sender, self._webhooks, meter.sent).run()

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            with contextlib.suppress(Overloaded):
                for _ in range(_MOST_SWEEPS):
                    if await self._writing.run(self._retention.sweep) < AT_ONCE:
                        break

    def _stop(self) -> None:
        self._board.close()
        if self._runner is not None:
            self._runner.stop()

    def _close_threads(self) -> None:
        self._reading.close()
        self._writing.close()
