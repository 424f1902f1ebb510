"""Taking requests in: their jobs, their holds and their Idempotency-Keys are written together or not at all."""

from collections.abc import Sequence

from dragoman.accounts.database import Instant, Session
from dragoman.accounts.idempotency import IdempotencyRow, row_id, standing
from dragoman.accounts.identifiers import QUEUE_PROCESS
from dragoman.accounts.operations import Admitted, Operation, Outcome
from dragoman.core.errors import IdempotencyConflict
from dragoman.core.idempotency import Attempt
from dragoman.jobs.options import QueueOptions
from dragoman.jobs.order import due_at
from dragoman.jobs.payloads import pack_form, pack_requests
from dragoman.jobs.rows import Accepted, NewRow, Submission, account_owner
from dragoman.jobs.statements import JobStatements
from dragoman.jobs.webhooks.urls import host_of

Answer = Accepted | Exception
"""Or what whoever submitted it is to have raised: a Refusal, an IdempotencyConflict."""


class Accepting:
    """Implements accounts.ledger.Work: one transaction that accepts jobs, or finds that they are there already."""

    def __init__(self, statements: JobStatements, submissions: Sequence[Submission], options: QueueOptions) -> None:
        self._statements = statements
        self._submissions = submissions
        self._options = options
        self._found: dict[int, Answer] = {}
        self._outdated: list[str] = []

    def before(self, session: Session) -> Sequence[Operation]:
        ids = session.values(submission.admission.request_id for submission in self._submissions)
        known = {request_id for (request_id,) in session.rows(self._statements.known, ids)}
        for number, submission in enumerate(self._submissions):
            if submission.admission.request_id in known:
                # An earlier transaction was committed whose end nobody saw.
                self._found[number] = Accepted(submission.job_id, repeated=False)
            elif submission.draft.attempt is not None:
                found = self._earlier(session, submission.draft.attempt)
                if found is not None:
                    self._found[number] = found
        return [submission.admission for _, submission in self._new()]

    def after(self, session: Session, now: Instant, outcomes: Sequence[Outcome]) -> list[Answer]:
        answers = dict(self._found)
        for row in self._outdated:
            session.write(self._statements.remove_idempotent, row)
        for (number, submission), outcome in zip(self._new(), outcomes, strict=True):
            if isinstance(outcome, Admitted):
                self._add(session, now.wall, submission, outcome)
                answers[number] = Accepted(submission.job_id, repeated=False)
            else:
                assert isinstance(outcome, Exception), "an admission has no other answer"
                answers[number] = outcome
        return [answers[number] for number in range(len(self._submissions))]

    def _new(self) -> list[tuple[int, Submission]]:
        return [pair for pair in enumerate(self._submissions) if pair[0] not in self._found]

    def _earlier(self, session: Session, attempt: Attempt) -> Answer | None:
        """What the key stands for already; None: for nothing, or for nothing any more."""
        rows = session.rows(self._statements.idempotent, row_id(attempt))
        if not rows:
            return None
        row = IdempotencyRow._make(rows[0])
        if row.job_id is not None and row.fingerprint == attempt.fingerprint:
            return Accepted(row.job_id, repeated=True)
        alive = bool(session.rows(self._statements.alive, row.process_id))
        if standing(row, attempt.fingerprint, session.now().wall, alive=alive) is None:
            self._outdated.append(row.id)
            return None
        return IdempotencyConflict("The Idempotency-Key stands for another request")

    def _add(self, session: Session, now: int, submission: Submission, admitted: Admitted) -> None:
        draft, admission = submission.draft, submission.admission
        owner = submission.owner if admitted.account_id is None else account_owner(admitted.account_id)
        order = self._statements.order
        requests, form = pack_requests(draft.requests), pack_form(draft.form)
        row = NewRow(
            submission.job_id,
            admission.request_id,
            owner,
            admission.account,
            admission.key_digest,
            admission.dialect,
            admission.model,
            draft.priority,
            order.round_of_next(session, admission.model, draft.priority, owner),
            due_at(now, draft.priority, self._options.ageing_seconds),
            "queued",
            now,
            now + round(self._options.held_seconds * 1000) if draft.held else None,
            admission.prompt_tokens,
            admission.most_completion_tokens,
            len(requests) + len(form),
            draft.webhook,
            None if draft.webhook is None else host_of(draft.webhook),
        )
        [(number,)] = session.rows(self._statements.add, *row)
        session.write(self._statements.add_request, number, requests, form)
        if draft.attempt is not None:
            self._stand_for(session, now, draft.attempt, submission.job_id)

    def _stand_for(self, session: Session, now: int, attempt: Attempt, job_id: str) -> None:
        row = (row_id(attempt), attempt.fingerprint, 0, QUEUE_PROCESS, now, job_id)
        session.write(self._statements.add_idempotent, *row)
