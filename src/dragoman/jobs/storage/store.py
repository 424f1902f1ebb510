"""The jobs in the database, for the one thread of a process that writes to them."""

import secrets
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Generic

import structlog

from dragoman.accounts.database.connections import Database, Instant, Session
from dragoman.accounts.identifiers import QUEUE_PROCESS_ID
from dragoman.accounts.ledger.ledger import Ledger, ScriptResult
from dragoman.accounts.ledger.operations import LedgerOperation, LedgerOutcome
from dragoman.jobs.storage.accepting import AcceptResult, AcceptTransaction
from dragoman.jobs.storage.retrying import RetryTransaction
from dragoman.jobs.storage.statements import JobStatements
from dragoman.jobs.storage.writing import CancelTransaction, ReapTransaction, ReportTransaction, delete_events
from dragoman.jobs.values.options import LEASE_SECONDS, QueueOptions
from dragoman.jobs.values.rows import ClaimedJob, JobReport, Lease, OpenJobRow, Submission

_log = structlog.get_logger(__name__)


class JobStore:
    """Everything here raises what database.failures names; then nothing is known to have happened, and it may be tried
    again. Its connection opens at the first use."""

    def __init__(self, database: Database, options: QueueOptions, process_id: int) -> None:
        """`process_id` is what people find in the table; leases decide by themselves."""
        self._database = database
        self._options = options
        self._process_id = process_id
        self._statements = JobStatements(database.dialect)
        self._ledger = Ledger(database, QUEUE_PROCESS_ID)

    def close(self) -> None:
        """Close the connection."""
        self._ledger.close()

    def accept(self, submissions: Sequence[Submission]) -> list[AcceptResult]:
        """Admit and store them; the answers are in their order. What is accepted survives a loss of power."""
        results = self._accept(submissions)
        self._ledger.sync()
        return results

    def claim(self, models: Sequence[str], limit: int) -> list[ClaimedJob]:
        """Up to `most` jobs to run now, the models taking turns."""

        def write(session: Session, now: Instant) -> list[ClaimedJob]:
            claimed: list[ClaimedJob] = []
            remaining = deque(models)
            while remaining and len(claimed) < limit:
                model = remaining.popleft()
                job = self._claim(session, now.wall, model)
                if job is not None:
                    claimed.append(job)
                    remaining.append(model)
            return claimed

        return self._run_plain(write)

    def renew(self, leases: Collection[Lease]) -> set[int]:
        """Hold the jobs for DELIVERY_LEASE_SECONDS from now; the numbers of those that were lost."""

        def write(session: Session, now: Instant) -> set[int]:
            rows = {row.number: row.lease for row in self._open(session, (lease.number for lease in leases))}
            until = now.wall + LEASE_SECONDS * 1000
            held = [lease.number for lease in leases if rows.get(lease.number) == lease.token]
            session.write_many(self._statements.renew, [(until, number) for number in held])
            return {lease.number for lease in leases}.difference(held)

        return self._run_plain(write)

    def report(self, reports: Sequence[JobReport]) -> set[int]:
        """Write to running jobs; the numbers of those that were lost."""
        try:
            lost = self._ledger.run_script(ReportTransaction(self._statements, reports, self._options.max_attempts))
        except self._database.data_errors as error:
            if len(reports) == 1:
                _log.error("job_report_rejected", number=reports[0].lease.number, error=str(error))
                return {reports[0].lease.number}
            return {number for report in reports for number in self.report([report])}
        if any(report.outcome is not None for report in reports):
            self._ledger.sync()
        return lost

    def discard_events(self, lease: Lease) -> bool:
        """Forget what is stored of the job's answer; False: the lease was lost, or somebody may have read it."""

        def write(session: Session, _now: Instant) -> bool:
            for row in self._open(session, [lease.number]):
                if row.lease == lease.token and not row.delivered:
                    left = (row.attempts, None, 0, 0, row.bytes - delete_events(session, self._statements, row.number))
                    session.write(self._statements.advance, *left, row.number)
                    return True
            return False

        return self._run_plain(write)

    def mark_delivered(self, number: int) -> bool:
        """Note that the events stored of a running job may be read from now on; False: there are none."""

        def write(session: Session, _now: Instant) -> bool:
            stored = [row.number for row in self._open(session, [number]) if row.events]
            session.write_many(self._statements.mark_delivered, [(1, row) for row in stored])
            return bool(stored)

        return self._run_plain(write)

    def cancel(self, number: int) -> bool:
        """Cancel the job and settle what was generated; False: it has ended."""
        cancelled = self._ledger.run_script(CancelTransaction(self._statements, number))
        self._ledger.sync()
        return cancelled

    def retry(self, job_id: str, *, hold_cap: int | None) -> None:
        """Admit a failed or cancelled job once more, and let it wait again.

        Its hold covers at most `hold_cap` completion tokens. Raises JobNotFound, NotRetryable and the refusals of the
        ledger.
        """
        ageing = self._options.ageing_seconds
        self._ledger.run_script(RetryTransaction(self._statements, job_id, ageing_seconds=ageing, hold_cap=hold_cap))
        self._ledger.sync()

    def reap(self) -> list[int]:
        """Put back or end jobs whose process has died and jobs that have waited for too long; their numbers."""
        return self._ledger.run_script(ReapTransaction(self._statements, self._options.max_attempts))

    def _accept(self, submissions: Sequence[Submission]) -> list[AcceptResult]:
        try:
            return self._ledger.run_script(AcceptTransaction(self._statements, submissions, self._options))
        except self._database.data_errors:
            return [self._accept_alone(submission) for submission in submissions]

    def _accept_alone(self, submission: Submission) -> AcceptResult:
        # Of two with the same Idempotency-Key at the same time, the second now finds the first.
        try:
            return self._ledger.run_script(AcceptTransaction(self._statements, [submission], self._options))[0]
        except self._database.data_errors as error:
            return error

    def _run_plain(self, write: Callable[[Session, Instant], ScriptResult]) -> ScriptResult:
        return self._ledger.run_script(_PlainTransaction(write))

    def _claim(self, session: Session, now: int, model: str) -> ClaimedJob | None:
        number = self._statements.fair_queue.next_job(session, model)
        if number is None:
            return None
        [columns] = session.rows(self._statements.claimable, number)
        job_id, priority, attempts, events, completion_tokens, fingerprint, payload = columns
        lease = Lease(number, secrets.randbits(63))
        until = now + LEASE_SECONDS * 1000
        claim = ("running", now, attempts + 1, lease.token, until, self._process_id)
        session.write(self._statements.claim, *claim, number)
        return ClaimedJob(job_id, lease, model, priority, payload, events, completion_tokens, fingerprint)

    def _open(self, session: Session, numbers: Iterable[int]) -> list[OpenJobRow]:
        """Those of the jobs that have not ended, locked."""
        return [OpenJobRow._make(row) for row in session.rows(self._statements.open_jobs, session.values(numbers))]


class _PlainTransaction(Generic[ScriptResult]):
    """Implements accounts.ledger.Work: a transaction that asks the ledger nothing."""

    def __init__(self, write: Callable[[Session, Instant], ScriptResult]) -> None:
        self._write = write

    def operations(self, session: Session) -> Sequence[LedgerOperation]:  # noqa: ARG002
        return ()

    def apply(self, session: Session, now: Instant, outcomes: Sequence[LedgerOutcome]) -> ScriptResult:  # noqa: ARG002
        return self._write(session, now)
