"""What one job reports does not touch the others that its process runs."""

import contextlib

from sqlalchemy import select

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import jobs
from dragoman.accounts.ledger.operations import Admission
from dragoman.core.context import new_request_id
from dragoman.core.events import Usage
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.values.rows import JobReport, JobResult, Submission
from tests.support.jobs.queue_harness import draft

MODEL = "echo"


def submission() -> Submission:
    request_id = new_request_id()
    admission = Admission(
        request_id=request_id,
        key_digest=None,
        model=MODEL,
        dialect="infermatic",
        prompt_tokens=1,
        max_completion_tokens=1,
    )
    return Submission(draft("x", answer_id=request_id), admission, "")


def test_an_impossible_usage_costs_no_other_job_its_report(database: Database) -> None:
    with contextlib.closing(JobStore(database, QueueOptions(), 1)) as store:
        store.accept([submission(), submission()])
        broken, sound = [job.lease for job in store.claim([MODEL], 2)]
        reports = [
            JobReport(lease=broken, outcome=JobResult("finished", Usage(-1, 1, 0))),
            JobReport(lease=sound, outcome=JobResult("finished", Usage(1, 1, 0))),
        ]
        assert store.report(reports) == {broken.number}
    with database.read() as connection:
        states = dict(connection.execute(select(jobs.c.number, jobs.c.state)).tuples().all())
    assert states == {broken.number: "running", sound.number: "finished"}
