"""What is written to running jobs, and what ends them: each time with what the ledger is to settle.

Only who knows a job's lease may write to it. Nothing is settled for one who has lost it.
"""

from collections.abc import Sequence

import structlog

from dragoman.accounts.database.connections import Instant, Session
from dragoman.accounts.ledger.operations import LedgerOperation, LedgerOutcome, Settlement, SettlementResult
from dragoman.core.errors import DragomanError, EngineFailed, JobTimedOut
from dragoman.core.jobs import JobState
from dragoman.jobs.storage.statements import JobStatements
from dragoman.jobs.values.errors import pack_error
from dragoman.jobs.values.options import LEASE_SECONDS
from dragoman.jobs.values.payloads import pack_events
from dragoman.jobs.values.rows import JobReport, JobResult, OpenJobRow, Requeue

_SETTLEMENT_RESULTS: dict[JobState, SettlementResult] = {
    "finished": "finished",
    "failed": "failed",
    "cancelled": "disconnected",
}

_log = structlog.get_logger(__name__)


class JobFinalizer:
    """The jobs that one transaction ends."""

    def __init__(self, statements: JobStatements) -> None:
        self._statements = statements
        self._ended: list[tuple[OpenJobRow, JobResult]] = []

    def add(self, row: OpenJobRow, result: JobResult) -> None:
        """This job ends like this. Its counts are those that it ends with."""
        self._ended.append((row, result))

    def settlements(self) -> list[LedgerOperation]:
        """What the ledger is to be asked."""
        return [settlement_of(row, result) for row, result in self._ended]

    def write(self, session: Session, now: Instant, outcomes: Sequence[LedgerOutcome]) -> None:
        """Write how they have ended."""
        for (row, result), outcome in zip(self._ended, outcomes, strict=True):
            if isinstance(outcome, Exception):
                _log.error("job_settlement_failed", job=row.id, error=str(outcome))
            usage = result.usage
            session.write(
                self._statements.end,
                result.state,
                now.wall,
                None,
                None,
                row.completion_tokens if usage is None else usage.completion_tokens,
                None if result.error is None else pack_error(result.error),
                None if row.webhook is None else "due",
                None if row.webhook is None else now.wall,
                row.number,
            )


def settlement_of(row: OpenJobRow, result: JobResult) -> Settlement:
    """What a job pays that ends like this.

    A cancelled one pays the tokens that are stored, a failed one only if somebody may have read them. The prompt is
    paid with the first token.
    """
    prompt, cached, completion = 0, 0, 0
    usage = result.usage
    if usage is not None:
        prompt, cached, completion = usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens
    elif row.completion_tokens and (result.state == "cancelled" or row.delivered):
        prompt, completion = row.prompt_tokens, row.completion_tokens
    return Settlement(
        request_id=row.request_id,
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=completion,
        result=_SETTLEMENT_RESULTS[result.state],
    )


class ReportTransaction:
    """Implements accounts.ledger.Work: what a process has to write to the jobs that it runs.

    May be done again when nobody saw its end. Its result are the numbers of jobs whose lease was lost.
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
        numbers = session.values(report.lease.number for report in self._reports)
        rows = {row[0]: OpenJobRow._make(row) for row in session.rows(self._statements.open_jobs, numbers)}
        for report in self._reports:
            row = rows.get(report.lease.number)
            if row is None or row.lease != report.lease.token or not self._apply_report(row, report):
                self._lost.add(report.lease.number)
        return self._finalizer.settlements()

    def apply(self, session: Session, now: Instant, outcomes: Sequence[LedgerOutcome]) -> set[int]:
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
        self._finalizer.write(session, now, outcomes)
        return self._lost

    def _apply_report(self, row: OpenJobRow, report: JobReport) -> bool:
        """False: what is stored is not what the report goes on from."""
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
            payload = pack_events(report.events)
            self._events.append((row.number, report.first, payload))
            row = row._replace(
                attempts=0 if report.is_resumable else row.attempts,
                events=report.first + len(report.events),
                bytes=row.bytes + len(payload),
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
    """Implements accounts.ledger.Work: cancel a job unless it has ended; whether it was cancelled."""

    def __init__(self, statements: JobStatements, number: int) -> None:
        self._statements = statements
        self._number = number
        self._finalizer = JobFinalizer(statements)
        self._cancelled = False

    def operations(self, session: Session) -> Sequence[LedgerOperation]:
        for row in session.rows(self._statements.open_jobs, session.values([self._number])):
            self._finalizer.add(OpenJobRow._make(row), JobResult("cancelled"))
            self._cancelled = True
        return self._finalizer.settlements()

    def apply(self, session: Session, now: Instant, outcomes: Sequence[LedgerOutcome]) -> bool:
        self._finalizer.write(session, now, outcomes)
        return self._cancelled


class ReapTransaction:
    """Implements accounts.ledger.Work: jobs whose process has died go back to their places, and those fail that died
    with too many processes or whose clients have waited for too long. Its result are the numbers of them all."""

    def __init__(self, statements: JobStatements, max_attempts: int) -> None:
        self._statements = statements
        self._max_attempts = max_attempts
        self._finalizer = JobFinalizer(statements)
        self._requeued: list[OpenJobRow] = []
        self._numbers: list[int] = []

    def operations(self, session: Session) -> Sequence[LedgerOperation]:
        now = session.now().wall
        abandoned = session.rows(self._statements.abandoned, now, now + LEASE_SECONDS * 1000)
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
        return self._finalizer.settlements()

    def apply(self, session: Session, now: Instant, outcomes: Sequence[LedgerOutcome]) -> list[int]:
        requeue(session, self._statements, self._requeued)
        self._finalizer.write(session, now, outcomes)
        return self._numbers


def requeue(session: Session, statements: JobStatements, rows: Sequence[OpenJobRow]) -> None:
    """Let the jobs wait again, each in the place that it had."""
    session.write_many(statements.requeue, [("queued", row.attempts, None, None, row.number) for row in rows])


def delete_events(session: Session, statements: JobStatements, number: int) -> int:
    """Delete what is stored of a job's answer; how many bytes that were."""
    [(size,)] = session.rows(statements.events_bytes, number)
    session.write(statements.remove_events, number)
    return int(size or 0)
