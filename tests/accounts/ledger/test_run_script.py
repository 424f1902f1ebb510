"""The writes of a transaction script are committed or rolled back together with the ledger's."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select

from dragoman.accounts.administration.keys import KeyRules
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.sessions import Instant, Session
from dragoman.accounts.database.statements import insert
from dragoman.accounts.database.tables import processes
from dragoman.accounts.identifiers import QUEUE_PROCESS_ID
from dragoman.accounts.ledger.ledger import Ledger
from dragoman.accounts.ledger.operations import Admission, Admitted, LedgerOperation, LedgerOutcome
from dragoman.accounts.process.journal import JournalFolder
from dragoman.accounts.process.recovery import Recovery
from dragoman.core.errors import BalanceTooLow, TooManyRunning
from tests.support.ledger_harness import LedgerHarness


class RecordingScript:
    """Admits, and writes a row for each admission; fails in the given method."""

    def __init__(self, database: Database, admissions: Sequence[Admission], *, fails_in: str = "") -> None:
        self._admissions = admissions
        self._fails_in = fails_in
        self._insert = insert(database.dialect, processes, ("id", "machine", "beat_at"))

    def operations(self, session: Session) -> Sequence[LedgerOperation]:
        if self._fails_in == "operations":
            raise LookupError
        return self._admissions

    def apply(self, session: Session, now: Instant, outcomes: Sequence[LedgerOutcome]) -> Sequence[LedgerOutcome]:
        admitted = [outcome for outcome in outcomes if isinstance(outcome, Admitted)]
        session.write_many(self._insert, [(number, "recorded", now.wall) for number, _ in enumerate(admitted)])
        if self._fails_in == "apply":
            raise LookupError
        return outcomes


def count_recorded(database: Database) -> int:
    with database.read() as connection:
        return len(connection.execute(select(processes)).all())


def test_ledger_and_script_commit_together_or_not_at_all(harness: LedgerHarness, database: Database) -> None:
    admission = harness.admission()
    for method in ("operations", "apply"):
        with pytest.raises(LookupError):
            harness.ledger.run_script(partial(RecordingScript, database, [admission], fails_in=method))
        assert (harness.account.holds, count_recorded(database)) == (0, 0)
    [outcome] = harness.ledger.run_script(lambda: RecordingScript(database, [admission]))
    assert isinstance(outcome, Admitted)
    assert (harness.account.holds, count_recorded(database)) == (outcome.hold, 1)
    harness.assert_consistent()


def test_a_refusal_is_passed_to_the_script_and_undoes_nothing_else(harness: LedgerHarness, database: Database) -> None:
    affordable, too_expensive = harness.admission(), harness.admission(prompt=10**6)
    outcomes = harness.ledger.run_script(lambda: RecordingScript(database, [affordable, too_expensive]))
    assert [type(outcome) for outcome in outcomes] == [Admitted, BalanceTooLow]
    assert count_recorded(database) == 1


def test_an_invalid_operation_undoes_everything(harness: LedgerHarness, database: Database) -> None:
    with pytest.raises(ValueError, match="not a number of tokens"):
        harness.ledger.run_script(
            lambda: RecordingScript(database, [harness.admission(), harness.admission(prompt=-1)])
        )
    assert (harness.account.holds, count_recorded(database)) == (0, 0)


def test_a_rejected_row_undoes_everything(harness: LedgerHarness, database: Database) -> None:
    harness.ledger.run_script(lambda: RecordingScript(database, [harness.admission()]))
    held = harness.account.holds
    with pytest.raises(database.data_errors):
        harness.ledger.run_script(lambda: RecordingScript(database, [harness.admission()]))  # The same row again.
    assert harness.account.holds == held
    harness.admit()  # The session is still usable.
    harness.assert_consistent()


def test_recovery_ignores_holds_of_the_queue(harness: LedgerHarness, database: Database, tmp_path: Path) -> None:
    queue = Ledger(database, QUEUE_PROCESS_ID)
    [admitted] = queue.commit([harness.admission()])
    assert isinstance(admitted, Admitted)
    assert Recovery(database, JournalFolder(tmp_path / "journals"), 1).recover() == 0
    assert harness.account.holds == admitted.hold
    harness.assert_consistent()
    harness.settle(admitted.request_id)
    assert harness.account.holds == 0
    harness.assert_consistent()
    queue.close()


def test_queued_requests_do_not_count_as_concurrent_requests(harness: LedgerHarness, database: Database) -> None:
    harness.use_new_key(KeyRules(concurrent_requests=1))
    queue = Ledger(database, QUEUE_PROCESS_ID)
    queued = queue.commit([harness.admission() for _ in range(3)])
    assert [type(outcome) for outcome in queued] == [Admitted] * 3
    running = harness.admit()
    assert harness.key.running == 1
    assert isinstance(harness.try_admit(), TooManyRunning)
    for outcome in [*queued, running]:
        assert isinstance(outcome, Admitted)
        harness.settle(outcome.request_id)
        harness.assert_consistent()
    assert harness.key.running == 0
    queue.close()
