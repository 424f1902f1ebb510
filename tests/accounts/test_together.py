"""Rows of others stand or fall with what the ledger does in the same transaction."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import select

from dragoman.accounts.database import Database, Instant, Session
from dragoman.accounts.identifiers import QUEUE_PROCESS
from dragoman.accounts.journal import JournalFolder
from dragoman.accounts.keys import KeyRules
from dragoman.accounts.ledger import Ledger
from dragoman.accounts.operations import Admission, Admitted, Operation, Outcome
from dragoman.accounts.recovery import Recovery
from dragoman.accounts.refusals import BalanceTooLow, TooManyRunning
from dragoman.accounts.statements import insert
from dragoman.accounts.tables import processes
from tests.support.accounts import Till


class Noting:
    """Admits, and writes a row of its own for what was admitted; breaks where it is told to."""

    def __init__(self, database: Database, admissions: Sequence[Admission], *, breaks: str = "") -> None:
        self._admissions = admissions
        self._breaks = breaks
        self._insert = insert(database.dialect, processes, ("id", "machine", "beat_at"))

    def before(self, session: Session) -> Sequence[Operation]:
        if self._breaks == "before":
            raise LookupError
        return self._admissions

    def after(self, session: Session, now: Instant, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        admitted = [outcome for outcome in outcomes if isinstance(outcome, Admitted)]
        session.write_many(self._insert, [(number, "noted", now.wall) for number, _ in enumerate(admitted)])
        if self._breaks == "after":
            raise LookupError
        return outcomes


def noted(database: Database) -> int:
    with database.read() as connection:
        return len(connection.execute(select(processes)).all())


def test_both_are_written_or_neither(till: Till, database: Database) -> None:
    admission = till.admission()
    for breaks in ("before", "after"):
        with pytest.raises(LookupError):
            till.ledger.together(Noting(database, [admission], breaks=breaks))
        assert (till.account.holds, noted(database)) == (0, 0)
    [outcome] = till.ledger.together(Noting(database, [admission]))
    assert isinstance(outcome, Admitted)
    assert (till.account.holds, noted(database)) == (outcome.hold, 1)
    till.assert_balanced()


def test_what_is_refused_is_told_to_the_work_and_undoes_nothing_else(till: Till, database: Database) -> None:
    good, too_dear = till.admission(), till.admission(prompt=10**6)
    outcomes = till.ledger.together(Noting(database, [good, too_dear]))
    assert [type(outcome) for outcome in outcomes] == [Admitted, BalanceTooLow]
    assert noted(database) == 1


def test_a_mistake_undoes_everything(till: Till, database: Database) -> None:
    with pytest.raises(ValueError, match="not a number of tokens"):
        till.ledger.together(Noting(database, [till.admission(), till.admission(prompt=-1)]))
    assert (till.account.holds, noted(database)) == (0, 0)


def test_a_row_that_the_tables_do_not_take_undoes_everything(till: Till, database: Database) -> None:
    till.ledger.together(Noting(database, [till.admission()]))
    held = till.account.holds
    with pytest.raises(database.rejections):
        till.ledger.together(Noting(database, [till.admission()]))  # The same row again.
    assert till.account.holds == held
    till.admit()  # The session goes on.
    till.assert_balanced()


def test_holds_of_the_queue_are_nobodys_to_recover(till: Till, database: Database, tmp_path: Path) -> None:
    queue = Ledger(database, QUEUE_PROCESS)
    [admitted] = queue.commit([till.admission()])
    assert isinstance(admitted, Admitted)
    assert Recovery(database, JournalFolder(tmp_path / "journals"), 1).recover() == 0
    assert till.account.holds == admitted.hold
    till.assert_balanced()
    till.settle(admitted.request_id)
    assert till.account.holds == 0
    till.assert_balanced()
    queue.close()


def test_requests_of_the_queue_do_not_run_at_the_same_time_as_others(till: Till, database: Database) -> None:
    till.use(KeyRules(concurrent_requests=1))
    queue = Ledger(database, QUEUE_PROCESS)
    queued = queue.commit([till.admission() for _ in range(3)])
    assert [type(outcome) for outcome in queued] == [Admitted] * 3
    running = till.admit()
    assert till.key.running == 1
    assert isinstance(till.ask(), TooManyRunning)
    for outcome in [*queued, running]:
        assert isinstance(outcome, Admitted)
        till.settle(outcome.request_id)
        till.assert_balanced()
    assert till.key.running == 0
    queue.close()
