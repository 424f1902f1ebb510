"""The ledger: decides on money and limits, many requests to a transaction.

Nothing is cached. Keys, limits and balances are read in the transaction that decides on them, so that limits hold
across processes and machines, and a revoked key is refused everywhere immediately.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.failures import DatabaseUnavailable, RowsLocked, find_outage
from dragoman.accounts.database.sessions import Instant, Session, sync_log
from dragoman.accounts.database.tables import SIX_HOURLY_LAG_HOURS
from dragoman.accounts.ledger import decisions
from dragoman.accounts.ledger.batch import LedgerBatch
from dragoman.accounts.ledger.ledger_statements import ledger_statements, summed_before
from dragoman.accounts.ledger.locked_accounts import LockedAccounts, name_of
from dragoman.accounts.ledger.operations import (
    AccountLocked,
    Admission,
    KeyLookup,
    LedgerOperation,
    LedgerOutcome,
    NeverAdmitted,
    RequestIdTaken,
    Settlement,
)
from dragoman.accounts.ledger.rows import BatchScope
from dragoman.accounts.times import HOUR_MILLISECONDS
from dragoman.core.errors import DragomanError

ScriptResult = TypeVar("ScriptResult")
ScriptResult_co = TypeVar("ScriptResult_co", covariant=True)

_LOCK_SHARE = 0.1
"""Of the time that a transaction may take: for so long it waits for rows that others have locked, before it skips."""


class TransactionScript(Protocol[ScriptResult_co]):
    """Ledger operations and writes to other tables that share one transaction."""

    def operations(self, session: Session) -> Sequence[LedgerOperation]:
        """Read and lock rows of other tables, and return the operations. An exception rolls the transaction back."""
        ...

    def apply(self, session: Session, now: Instant, outcomes: Sequence[LedgerOutcome]) -> ScriptResult_co:
        """Write rows by the outcomes, given in the order of the operations. An exception rolls everything back."""
        ...


class Ledger:
    """One process's access to the ledger, for one thread at a time. It connects at the first use."""

    def __init__(self, database: Database, process_id: int, *, skips_locked: bool = False) -> None:
        """Holds belong to `process_id`, see process/recovery.py.

        `skips_locked`: on PostgreSQL no transaction waits for long for rows that others have locked. `commit` and
        `run_script` go on without the operations that need them.
        """
        self._database = database
        self._process_id = process_id
        self._statements = ledger_statements(database.dialect)
        self._session: Session | None = None
        self._lock_seconds = _LOCK_SHARE * database.busy_seconds if skips_locked and not database.is_sqlite else None
        self._locked = None if self._lock_seconds is None else LockedAccounts()
        self._sums_six_hours_at = 1
        """When the hours are summed by six again, in milliseconds since 1970."""

    def commit(self, operations: Sequence[LedgerOperation], *, is_retry: bool = False) -> list[LedgerOutcome]:
        """Do all operations in one transaction, settlements first, and return the outcomes in the order of operations.

        `is_retry`: an earlier attempt ended without confirming its commit. Admissions that it made stand. Settlements
        survive a loss of power after `sync`. The outcome of one that would wait for others' locks is AccountLocked.
        Raises DatabaseUnavailable; it is then unknown whether the transaction was committed.
        """
        outcomes: list[LedgerOutcome | None] = [decisions.find_violation(operation) for operation in operations]
        valid_indexes = [number for number, outcome in enumerate(outcomes) if outcome is None]
        for number, outcome in zip(
            valid_indexes, self._commit_free([operations[number] for number in valid_indexes], is_retry), strict=True
        ):
            outcomes[number] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def run_script(self, new_script: Callable[[], TransactionScript[ScriptResult]]) -> ScriptResult:
        """Run a script's operations and its own writes in one transaction, and return what its `apply` returns.

        A new script is made for each attempt. Operations that would wait for others' locks are left out, as by
        `commit`. Raises what `commit` raises, and what the script raises or Database.data_errors; the transaction is
        then rolled back.
        """
        operations: list[LedgerOperation] = []

        def decide(session: Session) -> tuple[LedgerBatch, ScriptResult]:
            script = new_script()
            operations.clear()
            session.begin()
            operations.extend(script.operations(session))
            if errors := [found for each in operations if (found := decisions.find_violation(each))]:
                raise errors[0]
            locked: set[str] = set()
            if self._locked and self._locked.has_any:
                locked = self._locked.find_concerned_within(session, operations)
            free = _without_locked(operations, locked)
            batch, outcomes = self._decide(session, free, begin=False, is_retry=False)
            return batch, script.apply(session, batch.now, _with_locked(operations, locked, outcomes))

        try:
            return self._transact(decide)
        except RowsLocked:
            if self._locked is None:
                raise
            self._names(self._locked.find_locked, operations)
            return self._transact(decide)

    def transaction(self, write: Callable[[Session, Instant], ScriptResult]) -> ScriptResult:
        """Write rows of other tables in one transaction without ledger operations. Returns the result of `write`.

        Raises DatabaseUnavailable, what database.data_errors names, and what `write` raises.
        """

        def decide(session: Session) -> tuple[LedgerBatch, ScriptResult]:
            session.begin()
            return LedgerBatch(session, self._statements, self._process_id), write(session, session.now())

        return self._transact(decide)

    @property
    def needs_sync(self) -> bool:
        """Whether `sync` has anything to do."""
        return self._database.is_sqlite

    def sync(self) -> None:
        """Wait until all commits are on the disk; callable from any thread. Raises DatabaseUnavailable."""
        if self.needs_sync:
            sync_log(self._database.path)

    def close(self) -> None:
        """Close the connection; the next commit opens a new one."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _commit_free(self, operations: list[LedgerOperation], is_retry: bool) -> list[LedgerOutcome]:
        """Commit all operations but those that need rows which others keep locked."""
        locked: set[str] = set()
        if self._locked and self._locked.has_any:
            locked = self._names(self._locked.find_concerned, operations)
        try:
            return self._commit_others(operations, locked, is_retry)
        except RowsLocked:
            if self._locked is None:
                raise
            locked |= self._names(self._locked.find_locked, operations)
            return self._commit_others(operations, locked, is_retry)

    def _commit_others(
        self, operations: list[LedgerOperation], locked: set[str], is_retry: bool
    ) -> list[LedgerOutcome]:
        return _with_locked(operations, locked, self._commit(_without_locked(operations, locked), is_retry))

    def _names(
        self, find: Callable[[Session, Sequence[LedgerOperation]], set[str]], operations: Sequence[LedgerOperation]
    ) -> set[str]:
        session = self._connect()
        try:
            return find(session, operations)
        except BaseException as error:
            self._abandon(session, error)
            raise

    def _commit(self, operations: list[LedgerOperation], is_retry: bool) -> list[LedgerOutcome]:
        try:
            if not operations:
                return []
            return self._transact(lambda session: self._decide(session, operations, begin=True, is_retry=is_retry))
        except self._database.data_errors as error:
            if len(operations) == 1:
                return [error]
        # One of the operations cannot be written: commit each alone, so that only that one fails.
        try:
            return [self._commit([operation], is_retry)[0] for operation in operations]
        except RowsLocked as error:  # Those before it are committed.
            raise DatabaseUnavailable(str(error)) from error

    def _transact(self, decide: Callable[[Session], tuple[LedgerBatch, ScriptResult]]) -> ScriptResult:
        session = self._connect()
        try:
            batch, result = decide(session)
            with session.pipeline():
                batch.store()
                if must_sum := batch.now.wall >= self._sums_six_hours_at:
                    session.write(self._statements.add_six_hourly, summed_before(batch.now.wall))
                session.commit()
        except BaseException as error:
            self._abandon(session, error)
            raise
        if must_sum:
            self._sums_six_hours_at = (summed_before(batch.now.wall) + 6 + SIX_HOURLY_LAG_HOURS) * HOUR_MILLISECONDS
        return result

    def _connect(self) -> Session:
        if self._session is not None and self._session.has_ended:
            self.close()
        if self._session is None:
            self._session = self._database.session(lock_seconds=self._lock_seconds)
        return self._session

    def _abandon(self, session: Session, error: BaseException) -> None:
        """Roll back after an error. Raises DatabaseUnavailable, and discards the connection, if the database failed."""
        outage = find_outage(error)
        if outage is None:
            try:
                session.rollback()
                if session.is_current:
                    return
                outage = DatabaseUnavailable("it was deleted or replaced")
            except self._database.driver_error as failure:
                error, outage = failure, find_outage(failure)
        self.close()
        try:
            if outage is not None:
                raise outage from error
        finally:
            del error, outage  # Otherwise the traceback would keep the connection.

    def _decide(
        self, session: Session, operations: Sequence[LedgerOperation], *, begin: bool, is_retry: bool
    ) -> tuple[LedgerBatch, list[LedgerOutcome]]:
        batch = LedgerBatch(session, self._statements, self._process_id)
        settlements = [operation for operation in operations if isinstance(operation, Settlement)]
        requests = [operation for operation in operations if not isinstance(operation, Settlement)]
        scope = _scope_of(settlements, requests)
        batch.load(scope, begin=begin)
        settled = iter(_settle_all(batch, settlements))
        answered = iter(_answer_all(batch, requests, is_retry))
        return batch, [next(settled if isinstance(operation, Settlement) else answered) for operation in operations]


def _without_locked(operations: Sequence[LedgerOperation], locked: set[str]) -> list[LedgerOperation]:
    return [each for each in operations if name_of(each) not in locked] if locked else list(operations)


def _with_locked(
    operations: Sequence[LedgerOperation], locked: set[str], outcomes: Sequence[LedgerOutcome]
) -> list[LedgerOutcome]:
    """Return the outcomes of all operations, given those of the ones that are not locked."""
    if not locked:
        return list(outcomes)
    others = iter(outcomes)
    return [AccountLocked() if name_of(each) in locked else next(others) for each in operations]


def _scope_of(settlements: Sequence[Settlement], requests: Sequence[Admission | KeyLookup]) -> BatchScope:
    digests, selecting = set(), set()
    for request in requests:
        if request.key_digest is not None:
            digests.add(request.key_digest)
            if request.account is not None:
                selecting.add(request.key_digest)
    settled = {settlement.request_id for settlement in settlements}
    admitted = {request.request_id for request in requests if isinstance(request, Admission)}
    return BatchScope(settled, admitted, digests, selecting, _priced_models(requests))


def _priced_models(requests: Sequence[Admission | KeyLookup]) -> set[str]:
    """Return the models and adapters of all admissions, their fallbacks, and the models of the adapters."""
    admissions = [request for request in requests if isinstance(request, Admission)]
    bases = {admission.base_model for admission in admissions if admission.base_model is not None}
    return bases.union(*((admission.model, *admission.fallback_models) for admission in admissions))


def _settle_all(batch: LedgerBatch, settlements: Sequence[Settlement]) -> list[LedgerOutcome]:
    usage_rows = batch.load_usage({each.request_id for each in settlements if each.request_id not in batch.holds})
    before = {request_id: decisions.already_settled(usage_row) for request_id, usage_row in usage_rows.items()}
    outcomes: list[LedgerOutcome] = []
    for settlement in settlements:
        request_id = settlement.request_id
        hold = batch.holds.get(request_id)
        if hold is not None:
            settled = decisions.settle(batch, hold, settlement)
            before[request_id] = msgspec.structs.replace(settled, repeated=True)
            outcomes.append(settled)
        else:
            outcomes.append(before.get(request_id) or NeverAdmitted(request_id))
    return outcomes


def _answer_all(batch: LedgerBatch, requests: Sequence[Admission | KeyLookup], is_retry: bool) -> list[LedgerOutcome]:
    used_ids = batch.used_request_ids
    own_admissions = batch.load_own_admissions(used_ids) if is_retry and used_ids else {}
    outcomes: list[LedgerOutcome] = []
    for request in requests:
        if isinstance(request, Admission) and request.request_id in used_ids:
            outcomes.append(own_admissions.get(request.request_id) or RequestIdTaken(request.request_id))
        else:
            outcomes.append(_answer(batch, request))
            if isinstance(request, Admission) and not request.is_check:
                used_ids.add(request.request_id)
    return outcomes


def _answer(batch: LedgerBatch, request: Admission | KeyLookup) -> LedgerOutcome:
    try:
        return (
            decisions.admit(batch, request) if isinstance(request, Admission) else decisions.look_up_key(batch, request)
        )
    except DragomanError as refusal:
        return refusal
