"""The order of the queue: the rule itself, and the statements that implement it."""

import contextlib
import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from sqlalchemy import ColumnElement, select

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.statements import Statement
from dragoman.accounts.database.tables import jobs
from dragoman.jobs.storage.fair_queue import due_at
from dragoman.jobs.storage.statements import JobStatements
from dragoman.jobs.storage.store import JobStore
from dragoman.jobs.values.options import QueueOptions
from dragoman.jobs.values.rows import AcceptedJob, JobReport, Lease, Requeue
from tests.support.jobs.queue_harness import unmetered_submission
from tests.support.jobs.reference_queue import ReferenceQueue
from tests.support.ledger_harness import clear_tables

MODEL = "echo"
owners = st.sampled_from("abc")


class FairQueueMachine(RuleBasedStateMachine):
    """A queue in a database beside the reference queue."""

    database: Database

    @initialize(aging=st.sampled_from([0.0001, 0.002, 60.0]))
    def open(self, aging: float) -> None:
        clear_tables(self.database)
        self.aging = aging
        self.store = JobStore(self.database, QueueOptions(priority_aging_seconds=aging), 1)
        self.reference = ReferenceQueue()
        self.leases: dict[int, Lease] = {}

    @rule(wanted=st.lists(st.tuples(owners, st.integers(0, 2)), min_size=1, max_size=4))
    def submit(self, wanted: list[tuple[str, int]]) -> None:
        accepted = self.store.accept([unmetered_submission(*each) for each in wanted])
        for (owner, priority), job in zip(wanted, accepted, strict=True):
            assert isinstance(job, AcceptedJob)
            row = self.row(job.job_id)
            due = due_at(row.submitted_at, priority, self.aging)
            expected = self.reference.submit(row.number, owner, priority, due)
            assert (row.due, row.round) == (due, expected.round)

    @precondition(lambda self: self.reference.next())
    @rule(chosen=st.integers(0, 9), priority=st.integers(0, 2))
    def prioritize(self, chosen: int, priority: int) -> None:
        waiting = [job for job in self.reference.jobs if job.is_waiting]
        job = waiting[chosen % len(waiting)]
        row = self.row_of(jobs.c.number == job.number)
        self.store.prioritize(row.id, priority)
        due = due_at(row.submitted_at, priority, self.aging)
        expected = job if job.priority == priority else self.reference.move(job, priority, due)
        moved = self.row_of(jobs.c.number == job.number)
        assert (moved.priority, moved.due, moved.round) == (priority, due, expected.round)

    @precondition(lambda self: self.reference.next())
    @rule(chosen=st.integers(0, 9))
    def cancel(self, chosen: int) -> None:
        waiting = [job for job in self.reference.jobs if job.is_waiting]
        job = waiting[chosen % len(waiting)]
        assert self.store.cancel(job.number)
        self.reference.cancel(job)

    @rule(limit=st.integers(1, 3))
    def claim(self, limit: int) -> None:
        for job in self.store.claim([MODEL], limit):
            expected = self.reference.next()
            assert expected is not None
            assert job.lease.number == expected.number
            expected.is_waiting, expected.has_run = False, True
            self.leases[expected.number] = job.lease

    @precondition(lambda self: self.leases)
    @rule(chosen=st.integers(0, 9))
    def requeue(self, chosen: int) -> None:
        number, lease = self.take_lease(chosen)
        assert not self.store.report([JobReport(lease=lease, outcome=Requeue())]).lost
        self.reference.find(number).is_waiting = True

    @precondition(lambda self: self.leases)
    @rule(chosen=st.integers(0, 9))
    def end(self, chosen: int) -> None:
        number, _ = self.take_lease(chosen)
        assert self.store.cancel(number)

    @rule()
    def claim_all(self) -> None:
        self.claim(1000)
        assert self.reference.next() is None

    def take_lease(self, chosen: int) -> tuple[int, Lease]:
        number = sorted(self.leases)[chosen % len(self.leases)]
        return number, self.leases.pop(number)

    def row(self, job_id: str) -> Any:
        return self.row_of(jobs.c.id == job_id)

    def row_of(self, condition: ColumnElement[bool]) -> Any:
        with self.database.read() as connection:
            return connection.execute(select(jobs).where(condition)).one()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()


def test_the_statements_follow_the_rule(database: Database) -> None:
    machine = type("FairQueueOfDatabase", (FairQueueMachine,), {"database": database})
    run_state_machine_as_test(machine, settings=settings(max_examples=20, stateful_step_count=15, deadline=None))


def test_an_owner_with_many_jobs_does_not_delay_a_new_owner() -> None:
    queue = ReferenceQueue()
    for number in range(1000):
        queue.submit(number, "crowd", 128, number)
    queue.submit(1000, "newcomer", 128, 1000)
    assert _owners_served(queue, 2) == ["crowd", "newcomer"]


def test_owners_of_the_same_priority_get_equal_shares() -> None:
    queue = ReferenceQueue()
    numbers = itertools.count()
    for owner, count in (("a", 100), ("b", 50), ("c", 50)):
        for _ in range(count):
            queue.submit(number := next(numbers), owner, 128, number)
    assert Counter(_owners_served(queue, 60)) == {"a": 20, "b": 20, "c": 20}


def test_owners_that_resubmit_do_not_starve_an_earlier_owner() -> None:
    queue = ReferenceQueue()
    numbers = itertools.count()
    for owner in ("patient", "patient", "quick", "quicker"):
        queue.submit(number := next(numbers), owner, 128, number)
    served = []
    for _ in range(10):
        job = queue.next()
        assert job is not None
        job.is_waiting = False
        served.append(job.owner)
        if job.owner != "patient":
            queue.submit(number := next(numbers), job.owner, 128, number)
    assert served[:4].count("patient") == 2


def test_an_owner_that_cancels_its_jobs_does_not_wait_for_the_turns_that_they_would_have_taken(
    database: Database,
) -> None:
    with contextlib.closing(JobStore(database, QueueOptions(), 1)) as store:
        mistakes = _accepted(store, "a", 100)
        _accepted(store, "b", 3)
        for job_id in mistakes:
            with database.read() as connection:
                number = connection.execute(select(jobs.c.number).where(jobs.c.id == job_id)).scalar_one()
            assert store.cancel(number)
        [corrected] = _accepted(store, "a", 1)
        assert corrected in [job.id for job in store.claim([MODEL], 2)]


def _accepted(store: JobStore, owner: str, count: int) -> list[str]:
    """Submit jobs one after the other and return their ids."""
    accepted = [store.accept([unmetered_submission(owner)])[0] for _ in range(count)]
    return [job.job_id for job in accepted if isinstance(job, AcceptedJob)]


@given(st.integers(0, 255), st.integers(1, 10))
def test_an_aged_job_runs_before_later_urgent_jobs(priority: int, aging: int) -> None:
    queue = ReferenceQueue()
    patient = queue.submit(0, "patient", priority, due_at(0, priority, aging))
    waited = priority * aging * 1000
    queue.submit(1, "urgent", 0, due_at(waited + 1, 0, aging))
    assert queue.next() is patient


def _owners_served(queue: ReferenceQueue, count: int) -> list[str]:
    served = []
    for _ in range(count):
        job = queue.next()
        assert job is not None
        job.is_waiting = False
        served.append(job.owner)
    return served


INDEX_OF_STATEMENT = {
    "first_waiting": "jobs_place",
    "next_in_priority": "jobs_place",
    "earliest_due": "jobs_due",
    "latest_round": "jobs_round",
    "latest_of_owner": "jobs_owner",
}


@pytest.mark.parametrize("name", INDEX_OF_STATEMENT)
def test_every_lookup_uses_its_index(database: Database, name: str) -> None:
    statement = getattr(JobStatements(database.dialect).fair_queue, name)
    assert isinstance(statement, Statement)
    plan = _plan(database, statement)
    assert INDEX_OF_STATEMENT[name] in plan
    assert "TEMP B-TREE" not in plan
    assert "Sort" not in plan
    assert "SCAN jobs" not in plan


def _plan(database: Database, statement: Statement) -> str:
    none = "[]" if database.is_sqlite else []
    values = {"model": MODEL, "priority": 128, "owner": "a", "left_out": none}
    with database.write() as connection:
        if database.is_sqlite:
            explain = "EXPLAIN QUERY PLAN"
        else:
            explain = "EXPLAIN"
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # As for a table that is not empty.
        parameters = tuple(values[name] for name in statement.parameters)
        return str(connection.exec_driver_sql(f"{explain} {statement.sql}", parameters).all())
