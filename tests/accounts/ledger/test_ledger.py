"""All sums balance, whatever happens in whatever order."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from dragoman.accounts.administration.accounts import deposit, list_accounts
from dragoman.accounts.administration.consistency import find_discrepancies
from dragoman.accounts.administration.keys import KeyRules, create_key, disable_key, enable_key
from dragoman.accounts.administration.prices import set_price
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.ledger.ledger import Ledger
from dragoman.accounts.ledger.operations import Admission, Admitted, LedgerOperation, Settled
from dragoman.accounts.process.journal import Journal, JournalFolder, JournalSlot
from dragoman.accounts.process.recovery import Recovery
from dragoman.core.context import key_digest
from dragoman.core.errors import DragomanError, RateLimited
from tests.support.ledger_harness import (
    COMPLETION_PRICE,
    MODEL,
    PROMPT_PRICE,
    LedgerHarness,
    ManualClock,
    clear_tables,
    settlement,
)

_folders = itertools.count()

RULES = (
    None,
    KeyRules(budget=20_000, concurrent_requests=3),
    KeyRules(requests_per_minute=5, tokens_per_minute=300),
)
tokens = st.integers(0, 120)


class ServerProcess:
    """A server process: its ledger, and the journal of what it delivers."""

    def __init__(self, database: Database, folder: JournalFolder) -> None:
        process_id = new_process_id()
        self.ledger = Ledger(database, process_id)
        self.journal: Journal = folder.create(process_id)
        self.recovery = Recovery(database, folder, process_id)
        self.recovery.register()
        self.slots: dict[str, JournalSlot] = {}

    def die(self) -> None:
        self.ledger.close()
        self.recovery.close()
        self.journal.close()


class LedgerMachine(RuleBasedStateMachine):
    """Two processes, three keys of two accounts, and all events that may happen to them."""

    database: Database
    journals: Path

    @initialize()
    def open(self) -> None:
        clear_tables(self.database)
        self.folder = JournalFolder(self.journals / str(next(_folders)))
        self.numbers = itertools.count()
        self.ended: dict[str, Settled] = {}
        self.max_charges: dict[str, int] = {}
        harness = LedgerHarness(self.database, balance=10_000)
        other = LedgerHarness(self.database, balance=5_000, name="other")
        self.keys = [(harness.key_id, harness.digest)]
        for rules in RULES[1:]:
            created = create_key(self.database, harness.account_id, rules=rules, other_accounts=[other.account_id])
            self.keys.append((created.key.id, key_digest(created.secret)))
        self.processes = [ServerProcess(self.database, self.folder) for _ in range(2)]

    @rule(
        which=st.integers(0, 1),
        requests=st.lists(st.tuples(st.integers(0, 2), tokens, tokens), min_size=1, max_size=4),
    )
    def admit_together(self, which: int, requests: list[tuple[int, int, int]]) -> None:
        process = self.processes[which]
        admissions: list[LedgerOperation] = [
            Admission(
                request_id=f"request {next(self.numbers)}",
                key_digest=self.keys[key][1],
                model=MODEL,
                dialect="arcee",
                prompt_tokens=prompt,
                max_completion_tokens=completion,
                account="other" if key and completion % 3 == 0 else None,
                hold_cap=5 if completion % 5 == 0 else None,
            )
            for key, prompt, completion in requests
        ]
        for admission, outcome in zip(admissions, process.ledger.commit(admissions), strict=True):
            assert isinstance(admission, Admission)
            if isinstance(outcome, Admitted):
                process.slots[outcome.request_id] = process.journal.open(outcome.request_id)
                cost = admission.prompt_tokens * PROMPT_PRICE + admission.max_completion_tokens * COMPLETION_PRICE
                self.max_charges[outcome.request_id] = cost
            else:
                assert isinstance(outcome, DragomanError)

    @rule(which=st.integers(0, 1), chosen=st.integers(0, 10), prompt=tokens, completion=tokens)
    def deliver(self, which: int, chosen: int, prompt: int, completion: int) -> None:
        slots = list(self.processes[which].slots.values())
        if slots:
            slots[chosen % len(slots)].record(prompt, prompt // 2, completion)

    @rule(which=st.integers(0, 1), count=st.integers(1, 4), prompt=tokens, completion=tokens)
    def settle_together(self, which: int, count: int, prompt: int, completion: int) -> None:
        process = self.processes[which]
        chosen = list(process.slots)[:count]
        settlements = [settlement(each, prompt, prompt // 2, completion, "disconnected") for each in chosen]
        for outcome in process.ledger.commit(settlements):
            assert isinstance(outcome, Settled)
            assert outcome.charge <= self.max_charges[outcome.request_id]
            self.ended[outcome.request_id] = outcome
            process.slots.pop(outcome.request_id).close()

    @rule(which=st.integers(0, 1), chosen=st.integers(0, 100))
    def settle_again(self, which: int, chosen: int) -> None:
        if self.ended:
            settled = list(self.ended.values())[chosen % len(self.ended)]
            (outcome,) = self.processes[which].ledger.commit([settlement(settled.request_id, result="failed")])
            assert isinstance(outcome, Settled)
            assert (outcome.charge, outcome.repeated) == (settled.charge, True)

    @rule(amount=st.integers(-3_000, 3_000).filter(bool))
    def pay(self, amount: int) -> None:
        account = list_accounts(self.database)[0]
        if account.balance + amount >= 0:
            deposit(self.database, account.id, amount)

    @rule(price=st.integers(0, 20))
    def change_price(self, price: int) -> None:
        set_price(self.database, MODEL, min(price, PROMPT_PRICE), min(price, COMPLETION_PRICE))

    @rule(key=st.integers(0, 2), enabled=st.booleans())
    def revoke(self, key: int, enabled: bool) -> None:
        (enable_key if enabled else disable_key)(self.database, self.keys[key][0])

    @rule(which=st.integers(0, 1))
    def kill(self, which: int) -> None:
        dead, other = self.processes[which], self.processes[1 - which]
        dead.die()
        assert other.recovery.recover() == len(dead.slots)
        self.processes[which] = ServerProcess(self.database, self.folder)

    @invariant()
    def totals_are_consistent(self) -> None:
        assert find_discrepancies(self.database) == []
        if not any(process.slots for process in self.processes):
            assert not any(account.holds for account in list_accounts(self.database))

    def teardown(self) -> None:
        for process in getattr(self, "processes", ()):
            process.die()


def test_totals_are_consistent_after_any_sequence_of_operations(database: Database, tmp_path: Path) -> None:
    LedgerMachine.database, LedgerMachine.journals = database, tmp_path
    examples = 12 if database.is_sqlite else 8
    run_state_machine_as_test(
        LedgerMachine, settings=settings(max_examples=examples, stateful_step_count=25, deadline=None)
    )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def manual_clock_harness(tmp_path: Path, clock: ManualClock) -> Iterator[LedgerHarness]:
    """A ledger whose time the test sets; only on SQLite, since PostgreSQL has its own clock."""
    database = Database(f"sqlite:///{tmp_path}/accounts.db", clock)
    upgrade(database)
    with LedgerHarness(database) as harness:
        yield harness
    database.close()


def test_setting_the_wall_clock_does_not_affect_limits(manual_clock_harness: LedgerHarness, clock: ManualClock) -> None:
    manual_clock_harness.use_new_key(KeyRules(requests_per_minute=1))
    manual_clock_harness.admit()
    for wall in (clock.wall + 10**9, clock.wall - 10**9):
        clock.wall = wall
        assert isinstance(manual_clock_harness.try_admit(), RateLimited)
    clock.second += 61
    manual_clock_harness.admit()
    manual_clock_harness.assert_consistent()


def test_after_a_restart_of_the_machine_earlier_admissions_count_from_now(
    manual_clock_harness: LedgerHarness, clock: ManualClock
) -> None:
    """The monotonic clock restarts from zero, and how long the machine was off is unknown."""
    manual_clock_harness.use_new_key(KeyRules(requests_per_minute=3, tokens_per_minute=1000))
    running = manual_clock_harness.admit(10, 10)
    clock.advance(30)
    manual_clock_harness.admit(10, 10)
    clock.second = 5
    manual_clock_harness.admit(10, 10)
    refusal = manual_clock_harness.try_admit()
    assert isinstance(refusal, RateLimited)
    requests, tokens = refusal.allowances
    assert requests is not None
    assert (requests.used, refusal.retry_after) == (3, 61)
    assert tokens is not None
    assert tokens.used == 60
    manual_clock_harness.settle(running.request_id)
    clock.second += 61
    manual_clock_harness.admit()
    manual_clock_harness.assert_consistent()


def test_a_request_leaves_the_window_after_a_minute(manual_clock_harness: LedgerHarness, clock: ManualClock) -> None:
    manual_clock_harness.use_new_key(KeyRules(requests_per_minute=2))
    manual_clock_harness.admit()
    clock.advance(20)
    manual_clock_harness.admit()
    refusal = manual_clock_harness.try_admit()
    assert isinstance(refusal, RateLimited)
    assert refusal.retry_after == 61 - 20
    clock.advance(refusal.retry_after - 1)
    assert isinstance(manual_clock_harness.try_admit(), RateLimited)
    clock.advance(1)
    manual_clock_harness.admit()
    assert isinstance(manual_clock_harness.try_admit(), RateLimited)


def test_a_retried_transaction_admits_no_request_twice(harness: LedgerHarness) -> None:
    admissions: list[LedgerOperation] = [harness.admission() for _ in range(3)]
    first = harness.ledger.commit(admissions[:2])
    again = harness.ledger.commit(admissions, is_retry=True)
    assert [outcome.request_id for outcome in again if isinstance(outcome, Admitted)] == [
        admission.request_id for admission in admissions if isinstance(admission, Admission)
    ]
    assert [outcome.hold for outcome in [*first, *again] if isinstance(outcome, Admitted)] == [400] * 5
    assert harness.key.running == 3
    harness.assert_consistent()


def test_the_second_of_two_requests_in_a_transaction_sees_the_first(harness: LedgerHarness) -> None:
    admissions = [harness.admission(prompt=60_000, max_completion=0) for _ in range(2)]
    first, second = harness.ledger.commit(admissions)
    assert isinstance(first, Admitted)
    assert isinstance(second, DragomanError)
    harness.assert_consistent()


def test_a_settlement_in_the_same_transaction_frees_its_limits(harness: LedgerHarness) -> None:
    harness.use_new_key(KeyRules(concurrent_requests=1, tokens_per_minute=30))
    admitted = harness.admit(10, 10)
    outcomes = harness.ledger.commit([harness.admission(10, 10), settlement(admitted.request_id)])
    assert [type(outcome) for outcome in outcomes] == [Admitted, Settled]
    harness.assert_consistent()
