"""The transaction that accepts requests: their jobs, holds and Idempotency-Keys are written together or not at all."""

from collections.abc import Sequence

from dragoman.accounts.database.idempotency_keys import IdempotencyRow, key_state, row_id
from dragoman.accounts.database.sessions import Instant, Session
from dragoman.accounts.identifiers import QUEUE_PROCESS_ID
from dragoman.accounts.ledger.operations import Admitted, LedgerOperation, LedgerOutcome, RequestIdTaken
from dragoman.core.context import account_owner
from dragoman.core.egress.urls import host_of
from dragoman.core.errors import IdempotencyConflict
from dragoman.core.idempotency import IdempotentRequest
from dragoman.jobs.storage.fair_queue import due_at
from dragoman.jobs.storage.statements import JobStatements
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.values.rows import AcceptedJob, NewJobRow, PackedSubmission

AcceptResult = AcceptedJob | Exception
"""The job, or the error to raise for its submitter: an error of core.errors, AccountLocked or a database error."""


class AcceptTransaction:
    """Implements TransactionScript: accept jobs, or find those that were accepted before."""

    def __init__(
        self, statements: JobStatements, submissions: Sequence[PackedSubmission], options: QueueOptions
    ) -> None:
        self._statements = statements
        self._submissions = submissions
        self._options = options
        self._found: dict[int, AcceptResult] = {}
        self._outdated: list[str] = []

    def operations(self, session: Session) -> Sequence[LedgerOperation]:
        ids = session.list_parameter(submission.admission.request_id for submission, *_ in self._submissions)
        stored_ids = {request_id for (request_id,) in session.rows(self._statements.known_request_ids, ids)}
        for number, (submission, *_) in enumerate(self._submissions):
            if submission.admission.request_id in stored_ids:
                # Accepted by an earlier transaction whose commit was never confirmed.
                self._found[number] = AcceptedJob(submission.job_id, repeated=False)
            elif submission.draft.idempotent_request is not None:
                found = self._find_duplicate(session, submission.draft.idempotent_request)
                if found is not None:
                    self._found[number] = found
        return [packed.submission.admission for _, packed in self._new_submissions()]

    def apply(self, session: Session, now: Instant, outcomes: Sequence[LedgerOutcome]) -> list[AcceptResult]:
        results = dict(self._found)
        for row in self._outdated:
            session.write(self._statements.remove_idempotent, row)
        for (number, packed), outcome in zip(self._new_submissions(), outcomes, strict=True):
            submission = packed.submission
            if isinstance(outcome, Admitted):
                self._insert_job(session, now.wall, packed, outcome)
                results[number] = AcceptedJob(submission.job_id, repeated=False)
            elif isinstance(outcome, RequestIdTaken):
                # That earlier transaction was committed while this one waited for the key.
                results[number] = AcceptedJob(submission.job_id, repeated=False)
            else:
                assert isinstance(outcome, Exception), "an admission has no other outcome"
                results[number] = outcome
        return [results[number] for number in range(len(self._submissions))]

    def _new_submissions(self) -> list[tuple[int, PackedSubmission]]:
        return [pair for pair in enumerate(self._submissions) if pair[0] not in self._found]

    def _find_duplicate(self, session: Session, request: IdempotentRequest) -> AcceptResult | None:
        """Return what the Idempotency-Key already stands for. None: nothing, or an outdated request."""
        rows = session.rows(self._statements.idempotent, row_id(request))
        if not rows:
            return None
        row = IdempotencyRow._make(rows[0])
        if row.job_id is not None and row.fingerprint == request.fingerprint:
            return AcceptedJob(row.job_id, repeated=True)
        alive = bool(session.rows(self._statements.live_process, row.process_id))
        if key_state(row, request.fingerprint, session.now().wall, alive=alive) is None:
            self._outdated.append(row.id)
            return None
        return IdempotencyConflict("The Idempotency-Key stands for another request")

    def _insert_job(self, session: Session, now: int, packed: PackedSubmission, admitted: Admitted) -> None:
        submission = packed.submission
        draft, admission = submission.draft, submission.admission
        owner = submission.owner if admitted.account_id is None else account_owner(admitted.account_id)
        row = NewJobRow(
            id=submission.job_id,
            request_id=admission.request_id,
            owner=owner,
            account=admission.account,
            key_digest=admission.key_digest,
            dialect=admission.dialect,
            model=admission.model,
            priority=draft.priority,
            round=self._statements.fair_queue.next_round(session, admission.model, draft.priority, owner),
            due=due_at(now, draft.priority, self._options.priority_aging_seconds),
            state="queued",
            submitted_at=now,
            expires_at=now + round(self._options.client_wait_seconds * 1000) if draft.client_waits else None,
            prompt_tokens=admission.prompt_tokens,
            most_completion_tokens=admission.max_completion_tokens,
            bytes=packed.size,
            webhook=draft.webhook,
            webhook_host=None if draft.webhook is None else host_of(draft.webhook),
        )
        [(number,)] = session.rows(self._statements.add, *row)
        payloads = packed.requests, packed.stored_request
        session.write(self._statements.add_request, number, *payloads, admission.base_model)
        if draft.idempotent_request is not None:
            self._store_idempotency_key(session, now, draft.idempotent_request, submission.job_id)

    def _store_idempotency_key(self, session: Session, now: int, request: IdempotentRequest, job_id: str) -> None:
        row = (row_id(request), request.fingerprint, 0, QUEUE_PROCESS_ID, now, job_id)
        session.write(self._statements.add_idempotent, *row)
