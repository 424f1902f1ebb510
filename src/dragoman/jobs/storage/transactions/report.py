"""The transactions that write to running jobs and that end jobs, each together with its settlements.

Only the holder of a job's lease writes to it; a process that has lost the lease settles nothing.
"""

from collections.abc import Sequence

from dragoman.accounts.database.sessions import Instant, Session
from dragoman.accounts.ledger.operations import LedgerOperation, LedgerOutcome
from dragoman.core import logs
from dragoman.core.errors import DragomanError, EngineFailed, JobTimedOut
from dragoman.jobs.storage.statements import JobStatements, latest_lease_end
from dragoman.jobs.storage.transactions.finalize import JobFinalizer, account_locked, requeue
from dragoman.jobs.values.rows import JobReport, JobResult, OpenJobRow, Reported, Requeue

_log = logs.get_logger(__name__)


class ReportTransaction:
    """Implements TransactionScript: store what a process reports of the jobs that it runs.

    It may be repeated after a commit that was never confirmed. A job whose account others keep locked does not end; to
    report its end again is all that is left to do.
    """

    def __init__(self, statements: JobStatements, reports: Sequence[JobReport], max_attempts: int) -> None:
        self._statements = statements
        self._reports = reports
        self._max_attempts = max_attempts
        self._finalizer = JobFinalizer(statements)
        self._events: list[tuple[int, int, bytes]] = []
        self._advanced: list[OpenJobRow] = []
        self._requeued: list[OpenJobRow] = []
        self._lost: set[int] = set()

    def operations(self, session: Session) -> Sequence[LedgerOperation]:
        numbers = session.list_parameter(report.lease.number for report in self._reports)
        rows = {row[0]: OpenJobRow._make(row) for row in session.rows(self._statements.open_jobs, numbers)}
        for report in self._reports:
            row = rows.get(report.lease.number)
            if row is None or row.lease != report.lease.token or not self._apply_report(row, report):
                self._lost.add(report.lease.number)
        return self._finalizer.settlements(session)

    def apply(self, session: Session, now: Instant, outcomes: Sequence[LedgerOutcome]) -> Reported:
        statements = self._statements
        session.write_many(statements.add_events, self._events)
        session.write_many(
            statements.advance,
            [
                (row.attempts, row.fingerprint, row.completion_tokens, row.events, row.bytes, row.number)
                for row in self._advanced
            ],
        )
        requeue(session, statements, self._requeued)
        return Reported(self._lost, self._finalizer.write(session, now, outcomes))

    def _apply_report(self, row: OpenJobRow, report: JobReport) -> bool:
        """Return False if the report does not continue what is stored."""
        if row.events == report.first and (report.events or row.completion_tokens != report.completion_tokens):
            row = self._advance(row, report)
        elif row.events != report.first + len(report.events):
            _log.error("job_events_out_of_order", job=row.id, stored=row.events, first=report.first)
            return False
        match report.outcome:
            case JobResult() as result:
                self._finalizer.add(row, result)
            case Requeue(error):
                self._requeue_or_fail(row, error)
        return True

    def _advance(self, row: OpenJobRow, report: JobReport) -> OpenJobRow:
        row = row._replace(completion_tokens=report.completion_tokens, fingerprint=report.fingerprint)
        if report.events:
            self._events.append((row.number, report.first, report.payload))
            row = row._replace(
                attempts=0 if report.is_resumable else row.attempts,
                events=report.first + len(report.events),
                bytes=row.bytes + len(report.payload),
            )
        self._advanced.append(row)
        return row

    def _requeue_or_fail(self, row: OpenJobRow, error: DragomanError | None) -> None:
        if error is None:
            self._requeued.append(row._replace(attempts=max(0, row.attempts - 1)))
        elif row.attempts >= self._max_attempts:
            self._finalizer.add(row, JobResult("failed", error=error))
        else:
            self._requeued.append(row)


class CancelTransaction:
    """Implements TransactionScript: cancel those of the jobs that have not ended. Its result is how many they are.

    Raises LedgerUnavailable if others keep an account locked.
    """

    def __init__(self, statements: JobStatements, numbers: Sequence[int]) -> None:
        self._statements = statements
        self._numbers = numbers
        self._finalizer = JobFinalizer(statements)
        self._cancelled = 0

    def operations(self, session: Session) -> Sequence[LedgerOperation]:
        for row in session.rows(self._statements.open_jobs, session.list_parameter(self._numbers)):
            self._finalizer.add(OpenJobRow._make(row), JobResult("cancelled"))
            self._cancelled += 1
        return self._finalizer.settlements(session)

    def apply(self, session: Session, now: Instant, outcomes: Sequence[LedgerOutcome]) -> int:
        if self._finalizer.write(session, now, outcomes):
            raise account_locked()
        return self._cancelled


class ReapTransaction:
    """Implements TransactionScript: put jobs of dead processes back into the queue, and fail overdue jobs.

    A job fails if too many processes have died with it, or if its client has waited for too long; later, if others keep
    its account locked. The result is the list of the numbers of all these jobs.
    """

    def __init__(self, statements: JobStatements, max_attempts: int, observed: int) -> None:
        """`observed`: the time at which the clock could be trusted. It may have been set since."""
        self._statements = statements
        self._max_attempts = max_attempts
        self._observed = observed
        self._finalizer = JobFinalizer(statements)
        self._requeued: list[OpenJobRow] = []
        self._numbers: list[int] = []

    def operations(self, session: Session) -> Sequence[LedgerOperation]:
        times = session.now().wall, self._observed
        now = min(times)
        abandoned = session.rows(self._statements.abandoned, now, latest_lease_end(max(times)))
        for row in map(OpenJobRow._make, abandoned):
            self._numbers.append(row.number)
            if row.attempts >= self._max_attempts:
                error = EngineFailed(f"The server has died {row.attempts} times while it worked on the request")
                self._finalizer.add(row, JobResult("failed", error=error))
            else:
                self._requeued.append(row)
        for row in map(OpenJobRow._make, session.rows(self._statements.expired, now)):
            self._numbers.append(row.number)
            timed_out = JobTimedOut("The request has waited in the queue for too long")
            self._finalizer.add(row, JobResult("failed", error=timed_out))
        return self._finalizer.settlements(session)

    def apply(self, session: Session, now: Instant, outcomes: Sequence[LedgerOutcome]) -> list[int]:
        requeue(session, self._statements, self._requeued)
        locked = self._finalizer.write(session, now, outcomes)
        return [number for number in self._numbers if number not in locked]
