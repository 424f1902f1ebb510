"""The parts that several transactions share: ending jobs, putting them back into the queue, deleting their events."""

import zlib
from collections.abc import Sequence

import msgspec

from dragoman.accounts.database.sessions import Instant, Session
from dragoman.accounts.ledger.operations import (
    AccountLocked,
    LedgerOperation,
    LedgerOutcome,
    Settlement,
    SettlementResult,
)
from dragoman.core import logs
from dragoman.core.errors import LedgerUnavailable
from dragoman.core.events import Started, UsageSource
from dragoman.core.jobs import JobState
from dragoman.jobs.storage.fair_queue import NO_ROUND
from dragoman.jobs.storage.statements import JobStatements
from dragoman.jobs.values.payloads import pack_error, unpack_events
from dragoman.jobs.values.rows import JobResult, OpenJobRow

_SETTLEMENT_RESULTS: dict[JobState, SettlementResult] = {
    "finished": "finished",
    "failed": "failed",
    "cancelled": "disconnected",
}

_LOCKED_RETRY_AFTER_SECONDS = 5

_log = logs.get_logger(__name__)


class JobFinalizer:
    """Collects the jobs that one transaction ends, settles them and writes their end."""

    def __init__(self, statements: JobStatements) -> None:
        self._statements = statements
        self._ended: list[tuple[OpenJobRow, JobResult]] = []

    def add(self, row: OpenJobRow, result: JobResult) -> None:
        """End this job with this result. The row holds its final counts."""
        self._ended.append((row, result))

    def settlements(self, session: Session) -> list[LedgerOperation]:
        """Return the ledger operations that settle the jobs."""
        return [self._settlement(session, row, result) for row, result in self._ended]

    def write(self, session: Session, now: Instant, outcomes: Sequence[LedgerOutcome]) -> set[int]:
        """Write the end of each job. `outcomes` are those of `settlements`, in the same order.

        Returns the numbers of the jobs that have not ended, because others keep their accounts locked.
        """
        locked: set[int] = set()
        for (row, result), outcome in zip(self._ended, outcomes, strict=True):
            if isinstance(outcome, AccountLocked):
                locked.add(row.number)
                continue
            if isinstance(outcome, Exception):
                _log.error("job_settlement_failed", job=row.id, error=str(outcome))
            usage = result.usage
            values = {
                "state": result.state,
                "round": NO_ROUND if row.claimed_at is None else row.round,
                "ended_at": now.wall,
                "completion_tokens": row.completion_tokens if usage is None else usage.completion_tokens,
                "error": None if result.error is None else pack_error(result.error),
                "webhook_state": None if row.webhook is None else "due",
                "webhook_at": None if row.webhook is None else now.wall,
            }
            session.write(self._statements.end, *map(values.get, self._statements.end.parameters[:-1]), row.number)
        return locked

    def _settlement(self, session: Session, row: OpenJobRow, result: JobResult) -> Settlement:
        """Return what a job is charged that ends with this result.

        A cancelled job pays the tokens that are stored, a failed one pays them only if they may have been delivered.
        The prompt is paid with the first token.
        """
        usage = result.usage
        source: UsageSource = "engine"
        if usage is not None:
            source = usage.source
            prompt, cached, completion = usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens
        elif row.completion_tokens and (result.state == "cancelled" or row.delivered):
            cached = min(self._load_cached_tokens(session, row), row.prompt_tokens)
            prompt, completion = row.prompt_tokens, row.completion_tokens
            if row.fingerprint is None:  # Other servers have none.
                source = "partial"
        else:
            prompt, cached, completion = 0, 0, 0
        return Settlement(
            request_id=row.request_id,
            prompt_tokens=prompt,
            cached_tokens=cached,
            completion_tokens=completion,
            result=_SETTLEMENT_RESULTS[result.state],
            usage_source=source,
        )

    def _load_cached_tokens(self, session: Session, row: OpenJobRow) -> int:
        """Return the cached tokens that the first stored events report. An answer to several prompts reports none."""
        for (payload,) in session.rows(self._statements.first_events, row.number):
            try:
                events = unpack_events(bytes(payload))
            except (msgspec.MsgspecError, zlib.error) as error:  # A job that cannot be read must end all the same.
                _log.warning("job_events_undecodable", job=row.id, error=str(error))
                return 0
            return next((event.cached_tokens for event in events if isinstance(event, Started)), 0)
        return 0


def account_locked() -> LedgerUnavailable:
    """Return the error of whoever asks for something that must wait for a locked account."""
    return LedgerUnavailable(
        "The account is locked by another transaction in the database", _LOCKED_RETRY_AFTER_SECONDS
    )


def requeue(session: Session, statements: JobStatements, rows: Sequence[OpenJobRow]) -> None:
    """Put the jobs back into the queue. Each keeps its place."""
    session.write_many(statements.requeue, [("queued", row.attempts, None, None, row.number) for row in rows])


def delete_events(session: Session, statements: JobStatements, number: int) -> int:
    """Delete the stored events of a job. Returns their size in bytes."""
    [(size,)] = session.rows(statements.events_bytes, number)
    session.write(statements.remove_events, number)
    return int(size or 0)
