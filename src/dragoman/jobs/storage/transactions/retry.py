"""The transaction that runs a failed or cancelled job once more."""

from collections.abc import Sequence

from dragoman.accounts.database.sessions import Instant, Session
from dragoman.accounts.ledger.operations import AccountLocked, Admission, LedgerOperation, LedgerOutcome
from dragoman.core.context import new_request_id
from dragoman.core.errors import JobNotFound
from dragoman.core.jobs import JobState
from dragoman.jobs.storage.fair_queue import due_at
from dragoman.jobs.storage.statements import JobStatements
from dragoman.jobs.storage.transactions.finalize import account_locked, delete_events
from dragoman.jobs.values.rows import EndedJobRow


class NotRetryable(ValueError):
    """The job has neither failed nor been cancelled."""

    def __init__(self, job_id: str, state: JobState) -> None:
        super().__init__(f"Job {job_id} is {state}; only failed and cancelled ones are run again")


class RetryTransaction:
    """Implements TransactionScript: admit a job once more and put it back into the queue.

    Its events are deleted: the answer restarts from the beginning, even if a part of it was delivered. Raises
    JobNotFound, NotRetryable and the errors of an admission.
    """

    def __init__(self, statements: JobStatements, job_id: str, *, aging_seconds: float, hold_cap: int | None) -> None:
        self._statements = statements
        self._job_id = job_id
        self._ageing_seconds = aging_seconds
        self._hold_cap = hold_cap
        self._request_id = new_request_id()
        self._row: EndedJobRow | None = None

    def operations(self, session: Session) -> Sequence[LedgerOperation]:
        rows = session.rows(self._statements.retryable, self._job_id)
        if not rows:
            raise JobNotFound(self._job_id)
        self._row = row = EndedJobRow._make(rows[0])
        if row.state not in ("failed", "cancelled"):
            raise NotRetryable(self._job_id, row.state)
        admission = Admission(
            request_id=self._request_id,
            key_digest=row.key_digest,
            model=row.model,
            base_model=row.base_model,
            dialect=row.dialect,
            prompt_tokens=row.prompt_tokens,
            max_completion_tokens=row.most_completion_tokens,
            account=row.account,
            hold_cap=self._hold_cap,
        )
        return [admission]

    def apply(self, session: Session, now: Instant, outcomes: Sequence[LedgerOutcome]) -> None:
        [outcome] = outcomes
        if isinstance(outcome, Exception):
            raise account_locked() if isinstance(outcome, AccountLocked) else outcome
        row, statements = self._row, self._statements
        assert row is not None, "set by operations()"
        values = {
            "request_id": self._request_id,
            "round": statements.fair_queue.next_round(session, row.model, row.priority, row.owner),
            "due": due_at(now.wall, row.priority, self._ageing_seconds),
            "state": "queued",
            "submitted_at": now.wall,
            "attempts": 0,
            "completion_tokens": 0,
            "events": 0,
            "bytes": row.bytes - delete_events(session, statements, row.number),
            "delivered": 0,
            "webhook_attempts": 0,
        }
        session.write(statements.retry, *map(values.get, statements.retry.parameters[:-1]), row.number)
