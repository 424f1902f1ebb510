"""What one job reports does not touch the others that its process runs."""

import contextlib

from sqlalchemy import select

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import jobs
from dragoman.core.events import Usage
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.values.rows import JobReport, JobResult, Reported
from tests.support.jobs.queue_harness import unmetered_submission

MODEL = "echo"


def test_an_impossible_usage_costs_no_other_job_its_report(database: Database) -> None:
    with contextlib.closing(JobStore(database, QueueOptions(), 1)) as store:
        store.accept([unmetered_submission(), unmetered_submission()])
        broken, sound = [job.lease for job in store.claim([MODEL], 2)]
        reports = [
            JobReport(lease=broken, outcome=JobResult("finished", Usage(-1, 1, 0))),
            JobReport(lease=sound, outcome=JobResult("finished", Usage(1, 1, 0))),
        ]
        assert store.report(reports) == Reported({broken.number}, set())
    with database.read() as connection:
        states = dict(connection.execute(select(jobs.c.number, jobs.c.state)).tuples().all())
    assert states == {broken.number: "running", sound.number: "finished"}
