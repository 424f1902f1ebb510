"""Large answers, such as vectors, are stored in several transactions, so that other writers get their turn."""

import asyncio
import random
from collections.abc import Sequence

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core.events import Embedding
from dragoman.jobs.storage.reader import JobReader
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.streams.broker import EventBroker
from dragoman.jobs.values.batches import MAX_BATCH_BYTES
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.values.rows import JobReport, Reported
from dragoman.jobs.worker.attempts import RunningAttempt
from dragoman.jobs.worker.event_flusher import EventFlusher
from tests.support.jobs.queue_harness import unmetered_submission
from tests.support.metered import MODEL


class _ObservedStore(JobStore):
    """Notes the bytes of each transaction."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, QueueOptions(), 1)
        self.written: list[int] = []

    def report(self, reports: Sequence[JobReport]) -> Reported:
        self.written.append(sum(len(report.payload) for report in reports))
        return super().report(reports)


async def test_large_answers_are_stored_one_after_the_other(database: Database) -> None:
    store, reader, thread = _ObservedStore(database), JobReader(database), DatabaseThread(database)
    store.accept([unmetered_submission() for _ in range(3)])
    attempts = [RunningAttempt(job, asyncio.get_running_loop().time() + 10) for job in store.claim([MODEL], 3)]
    vectors = random.Random(0)
    for attempt in attempts:
        attempt.add(Embedding(0, vectors.randbytes(MAX_BATCH_BYTES * 2 // 5)))
    flusher = EventFlusher(thread, store, EventBroker(thread, reader, thread, store), lambda _model: None)
    assert not await flusher.flush(attempts)
    assert len(store.written) == 2
    assert max(store.written) <= MAX_BATCH_BYTES
    for attempt in attempts:
        [batch] = reader.events(attempt.number, 0)
        assert len(batch.events) == 1
    thread.close()
    store.close()
