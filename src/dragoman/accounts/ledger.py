"""The ledger: everything that money and limits are decided by, many requests to a transaction.

Nothing is decided from memory: keys, limits and balances are read in the transaction that decides, so several processes
and machines count as one, and a key that was revoked a moment ago is refused everywhere.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from dragoman.accounts import admitting, settling
from dragoman.accounts.batch import Batch, Wanted
from dragoman.accounts.database import Database, Instant, Session
from dragoman.accounts.ledger_statements import LedgerStatements
from dragoman.accounts.operations import (
    Admission,
    Inquiry,
    NeverAdmitted,
    Operation,
    Outcome,
    RequestIdTaken,
    Settlement,
)
from dragoman.accounts.refusals import Refusal

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Work(Protocol[Result_co]):
    """Rows of other tables that are written in the same transaction as what the ledger is asked."""

    def before(self, session: Session) -> Sequence[Operation]:
        """Read and lock rows of other tables, and say what to ask. Whatever it raises undoes the transaction."""
        ...

    def after(self, session: Session, now: Instant, outcomes: Sequence[Outcome]) -> Result_co:
        """Write, by the outcomes, which are in the order of what was asked; they are committed unless this raises."""
        ...


class Ledger:
    """One process's way to the ledger, for one thread at a time. Its connection opens at the first use."""

    def __init__(self, database: Database, process_id: int) -> None:
        """Holds are taken in the name of `process_id`, see recovery.py."""
        self._database = database
        self._process_id = process_id
        self._statements = LedgerStatements(database.dialect)
        self._session: Session | None = None

    def commit(self, operations: Sequence[Operation], *, again: bool = False) -> list[Outcome]:
        """Do all of them in one transaction, settlements first; the outcomes are in the order of the operations.

        `again`: an earlier attempt ended without saying whether it was committed. Admissions that it made stand.
        What is settled survives a loss of power after `sync`. Raises what database.failures names, and then nothing is
        known to have happened.
        """
        outcomes: list[Outcome | None] = [_mistake(operation) for operation in operations]
        sound = [number for number, outcome in enumerate(outcomes) if outcome is None]
        for number, outcome in zip(sound, self._commit([operations[number] for number in sound], again), strict=True):
            outcomes[number] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def together(self, work: Work[Result]) -> Result:
        """Do what the work asks and what it writes itself in one transaction; what its `after` returns.

        Raises what `commit` does, what the work raises, and what database.rejections names: nothing has happened then.
        """

        def decide(session: Session) -> tuple[Batch, Result]:
            session.begin()
            operations = work.before(session)
            if mistakes := [mistake for operation in operations if (mistake := _mistake(operation))]:
                raise mistakes[0]
            batch, outcomes = self._decide(session, operations, lambda: None, again=False)
            return batch, work.after(session, batch.now, outcomes)

        return self._transact(decide)

    @property
    def needs_sync(self) -> bool:
        """Whether `sync` has anything to do."""
        return self._database.is_sqlite

    def sync(self) -> None:
        """Wait until what was committed is on the disk; in any thread. Raises OSError."""
        self._database.sync()

    def close(self) -> None:
        """Give up the connection; the next commit opens a new one."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """What `commit` raises when the database cannot be used now."""
        return self._database.failures

    def _commit(self, operations: list[Operation], again: bool) -> list[Outcome]:
        try:
            if not operations:
                return []
            return self._transact(lambda session: self._decide(session, operations, session.begin, again=again))
        except self._database.rejections as error:
            if len(operations) == 1:
                return [error]
        # One of them cannot be written; only its sender is to hear of it.
        return [self._commit([operation], again)[0] for operation in operations]

    def _transact(self, decide: Callable[[Session], tuple[Batch, Result]]) -> Result:
        if self._session is None:
            self._session = self._database.session()
        session = self._session
        try:
            batch, result = decide(session)
            with session.pipeline():
                batch.store()
                session.commit()
        except self._database.failures:
            self.close()
            raise
        except BaseException:
            session.rollback()
            raise
        return result

    def _decide(
        self, session: Session, operations: Sequence[Operation], begin: Callable[[], None], *, again: bool
    ) -> tuple[Batch, list[Outcome]]:
        batch = Batch(session, self._statements, self._process_id)
        settlements = [operation for operation in operations if isinstance(operation, Settlement)]
        askers = [operation for operation in operations if not isinstance(operation, Settlement)]
        wanted = _wanted(settlements, askers)
        batch.load(wanted, begin)
        settled = iter(_settle_all(batch, settlements))
        keys = (batch.keys_by_digest[digest] for digest in wanted.digests if digest in batch.keys_by_digest)
        batch.load_limits(keys, {asker.model for asker in askers if isinstance(asker, Admission)})
        answered = iter(_answer_all(batch, askers, again))
        return batch, [next(settled if isinstance(operation, Settlement) else answered) for operation in operations]


def _mistake(operation: Operation) -> ValueError | None:
    """What is wrong with an operation in itself."""
    try:
        if isinstance(operation, Settlement):
            settling.validate(operation)
        elif isinstance(operation, Admission):
            admitting.validate(operation)
    except ValueError as error:
        return error
    return None


def _wanted(settlements: Sequence[Settlement], askers: Sequence[Admission | Inquiry]) -> Wanted:
    digests, selecting = set(), set()
    for asker in askers:
        if asker.key_digest is not None:
            digests.add(asker.key_digest)
            if asker.account is not None:
                selecting.add(asker.key_digest)
    settled = {settlement.request_id for settlement in settlements}
    admitted = {asker.request_id for asker in askers if isinstance(asker, Admission)}
    return Wanted(settled, admitted, digests, selecting)


def _settle_all(batch: Batch, settlements: Sequence[Settlement]) -> list[Outcome]:
    ended = batch.usage({each.request_id for each in settlements if each.request_id not in batch.holds})
    before = {request_id: settling.settled_before(used) for request_id, used in ended.items()}
    outcomes: list[Outcome] = []
    for settlement in settlements:
        request_id = settlement.request_id
        hold = batch.holds.get(request_id)
        if hold is not None:
            settled = settling.settle(batch, hold, settlement)
            before[request_id] = msgspec.structs.replace(settled, repeated=True)
            outcomes.append(settled)
        else:
            outcomes.append(before.get(request_id) or NeverAdmitted(request_id))
    return outcomes


def _answer_all(batch: Batch, askers: Sequence[Admission | Inquiry], again: bool) -> list[Outcome]:
    taken = batch.taken
    mine = batch.admitted_by_me(taken) if again and taken else {}
    outcomes: list[Outcome] = []
    for asker in askers:
        if isinstance(asker, Admission) and asker.request_id in taken:
            outcomes.append(mine.get(asker.request_id) or RequestIdTaken(asker.request_id))
        else:
            outcomes.append(_answer(batch, asker))
            if isinstance(asker, Admission):
                taken.add(asker.request_id)
    return outcomes


def _answer(batch: Batch, asker: Admission | Inquiry) -> Outcome:
    try:
        return admitting.admit(batch, asker) if isinstance(asker, Admission) else admitting.inquire(batch, asker)
    except Refusal as refusal:
        return refusal
