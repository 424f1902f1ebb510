"""The queue of one process: accepts jobs, runs some of them and reports on all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core.background_tasks import repeat
from dragoman.core.errors import JobNotFound, Overloaded
from dragoman.core.jobs import Job
from dragoman.jobs.metrics import QueueMetrics
from dragoman.jobs.service.statistics import QueueStatistics
from dragoman.jobs.service.submission_batcher import SubmissionBatcher
from dragoman.jobs.storage.reader import JobReader, JobSnapshot, QueueDepth
from dragoman.jobs.storage.retention import SWEEP_SECONDS, Retention
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.streams.broker import EventBroker, JobStream
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.values.payloads import off_the_loop, unpack_error, unpack_stored_request
from dragoman.jobs.values.rows import Submission
from dragoman.jobs.webhooks.options import NO_WEBHOOKS, WebhookOptions, check_webhook
from dragoman.jobs.webhooks.store import send_again
from dragoman.jobs.worker.executor import JobExecutor
from dragoman.jobs.worker.runner import JobRunner

_MAX_PENDING_READS = 10_000
"""Reads that may wait for the database at a time."""

_MAX_SWEEPS = 100
"""Transactions per sweep. Other writers get their turn in between."""


class WebhooksOff(ValueError):
    """No webhook is sent by this server."""


class JobQueue:
    """The queue's service. Use it within `opened`.

    All processes that use the database see the same jobs. Every method raises Overloaded if the database does not
    answer.
    """

    def __init__(
        self, database: Database, options: QueueOptions, process_id: int, webhooks: WebhookOptions = NO_WEBHOOKS
    ) -> None:
        """`process_id` is stored with the jobs that this process runs, for administrators."""
        self._database = database
        self._options = options
        self._webhooks = webhooks
        self._read_thread = DatabaseThread(database, max_waiting=_MAX_PENDING_READS)
        self._write_thread = DatabaseThread(database)
        self._reader = JobReader(database)
        self._store = JobStore(database, options, process_id)
        self._broker = EventBroker(self._read_thread, self._reader, self._write_thread, self._store)
        self._submission_batcher = SubmissionBatcher(
            read_thread=self._read_thread,
            reader=self._reader,
            write_thread=self._write_thread,
            store=self._store,
            options=options,
        )
        self._statistics = QueueStatistics(self._read_thread, self._reader, options.concurrency)
        self._retention = Retention(database, options)
        self._runner: JobRunner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.asynccontextmanager
    async def opened(self, executor: JobExecutor, metrics: QueueMetrics) -> AsyncIterator[None]:
        """Accept and run jobs within the block. At its end, running jobs are requeued for other processes."""
        self._loop = asyncio.get_running_loop()
        self._runner = runner = JobRunner(
            options=self._options,
            executor=executor,
            broker=self._broker,
            thread=self._write_thread,
            reader=self._reader,
            store=self._store,
            metrics=metrics,
        )
        running = asyncio.create_task(runner.run())
        loops = (
            self._broker.poll_remote_jobs(runner.is_running),
            repeat("sweep of ended jobs", self._sweep, SWEEP_SECONDS),
            self._send_webhooks(metrics),
        )
        background_tasks = [asyncio.create_task(task) for task in loops]
        try:
            yield
        finally:
            self._stop()
            self._loop = None
            await asyncio.wait([running])
            for task in background_tasks:
                task.cancel()
            await asyncio.wait(background_tasks)
            await self._submission_batcher.close()
            with contextlib.suppress(Overloaded):
                await self._write_thread.run(self._store.close)
            await asyncio.to_thread(self._close_threads)
            await running

    @property
    def running(self) -> int:
        """Number of jobs that this process runs."""
        return 0 if self._runner is None else self._runner.running

    def retire(self) -> None:
        """Claim no more jobs, and requeue those that others can go on with. The rest and all readers stay."""
        if self._runner is not None:
            self._runner.retire()

    def drain(self) -> None:
        """Do what `retire` does, and end the streams of readers. May be called from any thread and signal handlers."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._drain)

    async def submit(self, submission: Submission) -> Job:
        """Accept a request. The returned job survives a loss of power.

        Raises Overloaded if the queue is full, IdempotencyConflict, BadRequest for a webhook that cannot be used, and
        the errors of an admission.
        """
        draft = submission.draft
        if draft.webhook is not None:
            check_webhook(draft.webhook, self._webhooks)
        eta = 0
        with contextlib.suppress(Overloaded):  # The job may be accepted without an ETA.
            eta = await self._statistics.eta_of_new(submission.admission.model, draft.priority)
        accepted = await self._submission_batcher.accept(submission)
        if accepted.repeated:
            snapshot = await self._read_thread.run(self._reader.find, accepted.job_id)
            if snapshot is None:
                raise JobNotFound(accepted.job_id)
            return await self._load_job(snapshot, repeated=True)
        if self._runner is not None:
            self._runner.wake()
        return Job(
            id=accepted.job_id,
            state="queued",
            stored_request=draft.stored_request,
            priority=draft.priority,
            eta=eta,
        )

    async def job(self, job_id: str, owner: str) -> Job:
        """Return the current state of the owner's job. Raises JobNotFound."""
        return await self._load_job(await self._find(job_id, owner))

    async def cancel(self, job_id: str, owner: str) -> Job:
        """Cancel the owner's job unless it has ended. Raises JobNotFound."""
        await self._cancel(await self._find(job_id, owner))
        return await self.job(job_id, owner)

    async def delete(self, job_id: str, owner: str) -> None:
        """Cancel the owner's job unless it has ended, and remove all that is stored of it. Raises JobNotFound."""
        snapshot = await self._find(job_id, owner)
        await self._cancel(snapshot)
        await self._write_thread.run(self._retention.remove, snapshot.number)

    async def retry(self, job_id: str, *, hold_cap: int | None) -> None:
        """Put a failed or cancelled job back into the queue. Raises what JobStore.retry raises."""
        await self._write_thread.run(self._store.retry, job_id, hold_cap=hold_cap)
        if self._runner is not None:
            self._runner.wake()

    async def prioritize(self, job_id: str, priority: int) -> None:
        """Give a waiting job another priority. Raises what JobStore.prioritize raises."""
        await self._write_thread.run(self._store.prioritize, job_id, priority)

    async def send_webhook_again(self, job_id: str) -> None:
        """Make the webhook of an ended job due again. Raises WebhooksOff and what `send_again` raises."""
        if self._webhooks.secret is None:
            raise WebhooksOff("This server sends no webhooks: set queue.webhook_secret to let it")
        await self._write_thread.run(send_again, self._database, job_id)

    async def follow(self, job_id: str, owner: str) -> JobStream:
        """Return the stream of events of the owner's job. Raises JobNotFound."""
        return self._broker.subscribe(await self._find(job_id, owner))

    async def depths(self) -> dict[str, QueueDepth]:
        """Return how many jobs of each model wait and run, in all processes."""
        return await self._statistics.depths()

    async def _find(self, job_id: str, owner: str) -> JobSnapshot:
        snapshot = await self._read_thread.run(self._reader.find, job_id)
        if snapshot is None or snapshot.owner != owner:
            raise JobNotFound(job_id)
        return snapshot

    async def _cancel(self, snapshot: JobSnapshot) -> None:
        if snapshot.ended_at is None and await self._write_thread.run(self._store.cancel, snapshot.number):
            if self._runner is not None:
                self._runner.drop([snapshot.number])
            self._broker.notify([snapshot.number])

    async def _load_job(self, snapshot: JobSnapshot, *, repeated: bool = False) -> Job:
        stored_request = await self._read_thread.run(self._reader.stored_request, snapshot.number)
        if stored_request is None:
            raise JobNotFound(snapshot.id)
        eta, position = 0, None
        if snapshot.state == "queued":
            position = await self._read_thread.run(self._reader.position, snapshot)
            eta = await self._statistics.eta_of_waiting(snapshot.model, position)
        elif snapshot.state == "running":
            eta = await self._statistics.eta_of_running(snapshot.model, (snapshot.age or 0) / 1000)
        error = None if snapshot.error is None else unpack_error(snapshot.error)
        return Job(
            id=snapshot.id,
            state=snapshot.state,
            stored_request=await off_the_loop(unpack_stored_request, stored_request),
            priority=snapshot.priority,
            eta=eta,
            position=position,
            error=error,
            ended_at=None if snapshot.ended_at is None else snapshot.ended_at // 1000,
            already_existed=repeated,
        )

    async def _send_webhooks(self, metrics: QueueMetrics) -> None:
        if self._webhooks.secret is not None:
            # Imported lazily: with aiohttp they are a fifth of a worker's imports, and most workers send no webhooks.
            from dragoman.jobs.webhooks.dispatcher import WebhookDispatcher
            from dragoman.jobs.webhooks.sender import WebhookSender

            sender = WebhookSender(self._webhooks.secret, self._webhooks.rules)
            await WebhookDispatcher(self._database, sender, self._webhooks, metrics.count_delivery).run()

    async def _sweep(self) -> None:
        for _ in range(_MAX_SWEEPS):
            if not await self._write_thread.run(self._retention.sweep):
                break

    def _drain(self) -> None:
        self._broker.close()
        self.retire()

    def _stop(self) -> None:
        self._broker.close()
        if self._runner is not None:
            self._runner.stop()

    def _close_threads(self) -> None:
        self._read_thread.close()
        self._write_thread.close()
