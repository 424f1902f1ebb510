"""Write jobs to the database, on the one thread of a process that writes to them."""

import contextlib
import secrets
from collections import deque
from collections.abc import Collection, Iterable, Sequence

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.sessions import Instant, Session
from dragoman.accounts.identifiers import QUEUE_PROCESS_ID
from dragoman.accounts.ledger.ledger import Ledger
from dragoman.core import logs
from dragoman.core.errors import JobNotFound
from dragoman.core.jobs import JobState
from dragoman.jobs.storage.fair_queue import due_at
from dragoman.jobs.storage.listing import open_jobs_of_key
from dragoman.jobs.storage.statements import job_statements
from dragoman.jobs.storage.transactions.accept import AcceptResult, AcceptTransaction
from dragoman.jobs.storage.transactions.finalize import delete_events
from dragoman.jobs.storage.transactions.report import CancelTransaction, ReapTransaction, ReportTransaction
from dragoman.jobs.storage.transactions.retry import RetryTransaction
from dragoman.jobs.values.options import LEASE_SECONDS, QueueOptions
from dragoman.jobs.values.rows import (
    ClaimedJob,
    JobReport,
    Lease,
    MovableJobRow,
    OpenJobRow,
    PackedSubmission,
    Reported,
)

_CANCEL_BATCH = 100
"""Jobs cancelled in one transaction."""

_log = logs.get_logger(__name__)


class NotWaiting(ValueError):
    """The job is not in the queue any more."""

    def __init__(self, job_id: str, state: JobState) -> None:
        super().__init__(f"Job {job_id} is {state}; only a job that waits has a place in the queue")


class JobStore:
    """The jobs as one process writes them.

    Every method raises DatabaseUnavailable if the database cannot be used; then nothing is known to have
    happened, and the call may be repeated. The connection opens with the first transaction.
    """

    def __init__(self, database: Database, options: QueueOptions, process_id: int) -> None:
        """`process_id` is stored with claimed jobs for administrators only; leases alone decide about writing."""
        self._database = database
        self._options = options
        self._process_id = process_id
        self._statements = job_statements(database.dialect)
        self._ledger = Ledger(database, QUEUE_PROCESS_ID, skips_locked=True)
        # The ledger raises ValueError for token counts that no request has.
        self._rejections: tuple[type[Exception], ...] = (*database.data_errors, ValueError)

    def close(self) -> None:
        """Close the connection."""
        self._ledger.close()

    def accept(self, submissions: Sequence[PackedSubmission]) -> list[AcceptResult]:
        """Admit and store the submissions. Returns their results in the same order.

        Accepted jobs survive a loss of power. AccountLocked stands for a submission that may be repeated.
        """
        results = self._accept(submissions)
        self._ledger.sync()
        return results

    def claim(self, models: Sequence[str], limit: int, left_out: Collection[int] = ()) -> list[ClaimedJob]:
        """Claim up to `limit` jobs of the models in turn, but none with one of the numbers `left_out`."""

        def write(session: Session, now: Instant) -> list[ClaimedJob]:
            claimed: list[ClaimedJob] = []
            remaining = deque(models)
            while remaining and len(claimed) < limit:
                model = remaining.popleft()
                job = self._claim(session, now.wall, model, left_out)
                if job is not None:
                    claimed.append(job)
                    remaining.append(model)
            return claimed

        return self._ledger.transaction(write)

    def renew(self, leases: Collection[Lease]) -> set[int]:
        """Extend the leases to LEASE_SECONDS from now. Returns the numbers of jobs whose lease was lost."""

        def write(session: Session, now: Instant) -> set[int]:
            rows = {row.number: row.lease for row in self._lock_open(session, (lease.number for lease in leases))}
            until = now.wall + LEASE_SECONDS * 1000
            held = [lease.number for lease in leases if rows.get(lease.number) == lease.token]
            session.write_many(self._statements.renew, [(until, number) for number in held])
            return {lease.number for lease in leases}.difference(held)

        return self._ledger.transaction(write)

    def report(self, reports: Sequence[JobReport]) -> Reported:
        """Write to running jobs."""
        try:
            reported = self._ledger.run_script(
                lambda: ReportTransaction(self._statements, reports, self._options.max_attempts)
            )
        except self._rejections as error:
            if len(reports) == 1:
                _log.error("job_report_rejected", number=reports[0].lease.number, error=str(error))
                return Reported({reports[0].lease.number}, set())
            return Reported.all_of(self.report([report]) for report in reports)
        if any(report.outcome is not None for report in reports):
            self._ledger.sync()
        return reported

    def discard_events(self, lease: Lease) -> bool:
        """Delete the stored events of a job. False: the lease was lost, or events may have been delivered."""

        def write(session: Session, _now: Instant) -> bool:
            for row in self._lock_open(session, [lease.number]):
                if row.lease == lease.token and not row.delivered:
                    size = row.bytes - delete_events(session, self._statements, row.number)
                    session.write(self._statements.advance, *(row.attempts, None, 0, 0, size, row.number))
                    return True
            return False

        return self._ledger.transaction(write)

    def mark_delivered(self, number: int) -> bool:
        """Record that the stored events of a job may be delivered from now on. False: it has none, or has ended."""

        def write(session: Session, _now: Instant) -> bool:
            stored = [row.number for row in self._lock_open(session, [number]) if row.events]
            session.write_many(self._statements.mark_delivered, [(1, row) for row in stored])
            return bool(stored)

        return self._ledger.transaction(write)

    def cancel(self, number: int) -> bool:
        """Cancel the job and settle what was generated. False: it has already ended."""
        return bool(self._cancel([number]))

    def cancel_all(self, key_id: int) -> int:
        """Cancel all jobs of a key that have not ended, as `cancel` does. Returns how many they were."""
        numbers = open_jobs_of_key(self._database, key_id)
        batches = (numbers[first : first + _CANCEL_BATCH] for first in range(0, len(numbers), _CANCEL_BATCH))
        return sum(map(self._cancel, batches))

    def retry(self, job_id: str, *, hold_cap: int | None) -> None:
        """Admit a failed or cancelled job once more and put it back into the queue.

        Its hold covers at most `hold_cap` completion tokens. Raises JobNotFound, NotRetryable and what an admission
        raises.
        """
        aging = self._options.priority_aging_seconds
        self._ledger.run_script(
            lambda: RetryTransaction(self._statements, job_id, aging_seconds=aging, hold_cap=hold_cap)
        )
        self._ledger.sync()

    def prioritize(self, job_id: str, priority: int) -> None:
        """Give a waiting job another priority, with the place of one that its owner submits now in it.

        It keeps what it has waited: it is due as if it had been submitted with this priority. Raises JobNotFound and
        NotWaiting.
        """

        def write(session: Session, _now: Instant) -> None:
            rows = session.rows(self._statements.movable, job_id)
            if not rows:
                raise JobNotFound(job_id)
            row = MovableJobRow._make(rows[0])
            if row.state != "queued":
                raise NotWaiting(job_id, row.state)
            if row.priority != priority:
                place = self._statements.fair_queue.next_round(session, row.model, priority, row.owner)
                due = due_at(row.submitted_at, priority, self._options.priority_aging_seconds)
                session.write(self._statements.move, priority, place, due, row.number)

        self._ledger.transaction(write)

    def reap(self, observed: int) -> list[int]:
        """Requeue or fail jobs of dead processes, and fail overdue jobs. Returns the numbers of all of them.

        Leases that have expired since the time `observed` are left for the next call.
        """
        return self._ledger.run_script(lambda: ReapTransaction(self._statements, self._options.max_attempts, observed))

    def _cancel(self, numbers: Sequence[int]) -> int:
        cancelled = self._ledger.run_script(lambda: CancelTransaction(self._statements, numbers))
        self._ledger.sync()
        return cancelled

    def _accept(self, submissions: Sequence[PackedSubmission]) -> list[AcceptResult]:
        try:
            return self._accept_together(submissions)
        except self._rejections:
            return [self._accept_alone(submission) for submission in submissions]

    def _accept_alone(self, submission: PackedSubmission) -> AcceptResult:
        with contextlib.suppress(*self._rejections):
            return self._accept_together([submission])[0]
        # Another one with its Idempotency-Key was committed after it had been looked for, and is found this time.
        try:
            return self._accept_together([submission])[0]
        except self._rejections as error:
            return error

    def _accept_together(self, submissions: Sequence[PackedSubmission]) -> list[AcceptResult]:
        return self._ledger.run_script(lambda: AcceptTransaction(self._statements, submissions, self._options))

    def _claim(self, session: Session, now: int, model: str, left_out: Collection[int]) -> ClaimedJob | None:
        number = self._statements.fair_queue.next_job(session, model, left_out)
        if number is None:
            return None
        [columns] = session.rows(self._statements.claimable, number)
        job_id, owner, priority, attempts, submitted_at, events, completion_tokens, fingerprint, payload = columns
        lease = Lease(number, secrets.randbits(63))
        until = now + LEASE_SECONDS * 1000
        claim = ("running", now, attempts + 1, lease.token, until, self._process_id)
        session.write(self._statements.claim, *claim, number)
        return ClaimedJob(
            id=job_id,
            lease=lease,
            owner=owner,
            model=model,
            priority=priority,
            requests=payload,
            events=events,
            completion_tokens=completion_tokens,
            fingerprint=fingerprint,
            waited_seconds=None if attempts else max(0, now - submitted_at) / 1000,
        )

    def _lock_open(self, session: Session, numbers: Iterable[int]) -> list[OpenJobRow]:
        """Lock and return those of the jobs that have not ended."""
        rows = session.rows(self._statements.open_jobs, session.list_parameter(numbers))
        return [OpenJobRow._make(row) for row in rows]
