import msgspec
import pytest

from dragoman.accounts.administration.keys import KeyRules
from dragoman.accounts.administration.prices import set_price
from dragoman.accounts.ledger.operations import NeverAdmitted, Settled, SettlementResult
from tests.support.ledger_harness import (
    CACHED_PRICE,
    COMPLETION_PRICE,
    MODEL,
    PROMPT_PRICE,
    LedgerHarness,
    find_usage,
    settlement,
)


@pytest.mark.parametrize("result", ["finished", "disconnected", "failed", "crashed"])
def test_the_reported_tokens_are_charged_however_the_request_ended(
    harness: LedgerHarness, result: SettlementResult
) -> None:
    admitted = harness.admit(10, 100)
    settled = harness.settle(admitted.request_id, prompt=10, cached=4, completion=7, result=result)
    assert settled.charge == 6 * PROMPT_PRICE + 4 * CACHED_PRICE + 7 * COMPLETION_PRICE
    account, key = harness.account, harness.key
    assert (account.holds, account.charges, account.balance) == (0, settled.charge, 1_000_000 - settled.charge)
    assert (key.held, key.running, key.spent) == (0, 0, settled.charge)
    harness.assert_consistent()


def test_a_request_that_received_nothing_pays_nothing(harness: LedgerHarness) -> None:
    settled = harness.settle(harness.admit().request_id, 0, 0, 0, "failed")
    assert settled.charge == 0
    assert harness.account.balance == 1_000_000
    harness.assert_consistent()


def test_settling_again_returns_the_first_result_and_changes_nothing(harness: LedgerHarness) -> None:
    admitted = harness.admit()
    first = settlement(admitted.request_id, 10, completion=3)
    second = settlement(admitted.request_id, 10, completion=9, result="failed")
    outcomes = [*harness.ledger.commit([first, second]), *harness.ledger.commit([second])]
    charge = 10 * PROMPT_PRICE + 3 * COMPLETION_PRICE
    settled = Settled(admitted.request_id, charge, "finished")
    assert outcomes == [settled, *[msgspec.structs.replace(settled, repeated=True)] * 2]
    assert harness.account.charges == charge
    harness.assert_consistent()


def test_a_charge_never_exceeds_its_hold(harness: LedgerHarness) -> None:
    admitted = harness.admit(10, 10)
    assert harness.settle(admitted.request_id, 10, 0, 1000).charge == admitted.hold


def test_tokens_beyond_a_capped_hold_are_charged_even_below_zero(harness: LedgerHarness) -> None:
    harness.admit(prompt=99_980, max_completion=0)  # Leaves little balance.
    capped = harness.admit(10, 40, hold_cap=0)
    charge = harness.settle(capped.request_id, 10, 0, 40).charge
    assert charge == 10 * PROMPT_PRICE + 40 * COMPLETION_PRICE
    assert harness.account.balance < 0
    harness.assert_consistent()


def test_settling_a_request_that_was_never_admitted_is_refused(harness: LedgerHarness) -> None:
    outcomes = harness.ledger.commit([settlement("unknown")])
    assert isinstance(outcomes[0], NeverAdmitted)


@pytest.mark.parametrize("counts", [(-1, 0, 0), (1, 2, 0), (0, 0, -1), (2**60, 0, 0)])
def test_impossible_token_counts_are_refused(harness: LedgerHarness, counts: tuple[int, int, int]) -> None:
    admitted = harness.admit()
    (outcome,) = harness.ledger.commit([settlement(admitted.request_id, *counts)])
    assert isinstance(outcome, ValueError)
    assert harness.key.running == 1


def test_a_usage_record_contains_what_its_charge_was_computed_from(harness: LedgerHarness) -> None:
    admitted = harness.admit(10, 10)
    settled = harness.settle(admitted.request_id, 10, 4, 7)
    used = find_usage(harness.database, admitted.request_id)
    assert used is not None
    assert (used.prompt_tokens, used.cached_tokens, used.completion_tokens) == (10, 4, 7)
    assert (used.charge, used.result, used.dialect) == (settled.charge, "finished", "arcee")
    assert used.price_id is not None
    assert used.admitted_at <= used.settled_at
    assert find_usage(harness.database, "unknown") is None


def test_the_model_that_answered_sets_the_price_and_the_hold_covers_the_dearest(harness: LedgerHarness) -> None:
    set_price(harness.database, "dear", 100, 300)
    set_price(harness.database, "cheap", 1, 3)
    for fallback, model, charge in (
        (0, MODEL, 10 * PROMPT_PRICE + 4 * COMPLETION_PRICE),
        (1, "cheap", 10 * 1 + 4 * 3),
        (2, "dear", 10 * 100 + 4 * 300),
        (99, MODEL, 10 * PROMPT_PRICE + 4 * COMPLETION_PRICE),
    ):
        admitted = harness.admit(10, 10, fallback_models=("cheap", "dear"))
        assert admitted.hold == 10 * 100 + 10 * 300
        assert admitted.fallback_models == ("cheap", "dear")
        assert harness.settle(admitted.request_id, 10, 0, 4, fallback=fallback).charge == charge
        used = find_usage(harness.database, admitted.request_id)
        assert used is not None
        assert used.model == model
    assert harness.account.holds == 0
    harness.assert_consistent()


def test_a_fallback_that_its_key_may_not_use_is_left_out(harness: LedgerHarness) -> None:
    set_price(harness.database, "dear", 100, 300)
    harness.use_new_key(KeyRules(models=(MODEL, "free")))
    admitted = harness.admit(10, 10, fallback_models=("dear", "free"))
    assert admitted.fallback_models == ("free",)
    assert admitted.hold == 10 * PROMPT_PRICE + 10 * COMPLETION_PRICE
    assert harness.settle(admitted.request_id, 10, 0, 4, fallback=1).charge == 0


def test_only_what_an_upstream_counted_itself_is_charged_beyond_its_estimate(harness: LedgerHarness) -> None:
    for source, completion in (("upstream", 40), ("partial", 10), ("estimated", 10), ("engine", 10)):
        admitted = harness.admit(10, 10)
        settled = harness.settle(admitted.request_id, 10, 0, 40, usage_source=source)
        assert settled.charge == 10 * PROMPT_PRICE + completion * COMPLETION_PRICE
        used = find_usage(harness.database, admitted.request_id)
        assert used is not None
        assert used.usage_source == source
    harness.assert_consistent()


def test_a_count_beyond_the_estimate_takes_no_more_than_the_balance(harness: LedgerHarness) -> None:
    # A chat whose answer nothing bounds is held for some tokens, and its upstream may answer with any number of them.
    others = harness.admit(prompt=90_000, max_completion=0)
    admitted = harness.admit(10, 10)
    balance = harness.account.balance
    assert balance > 0
    settled = harness.settle(admitted.request_id, 10, 0, 1_000_000, usage_source="upstream")
    assert settled.charge == admitted.hold + balance
    assert harness.account.balance == 0
    assert harness.account.holds == others.hold
    used = find_usage(harness.database, admitted.request_id)
    assert used is not None
    assert used.completion_tokens == 1_000_000
    harness.assert_consistent()


def test_a_count_beyond_the_estimate_of_an_account_below_zero_costs_the_maximum(harness: LedgerHarness) -> None:
    admitted = harness.admit(10, 10)
    harness.admit(prompt=99_950, max_completion=0)
    capped = harness.admit(0, 40, hold_cap=0)
    harness.settle(capped.request_id, 0, 0, 40)
    before = harness.account.balance
    assert before < 0
    settled = harness.settle(admitted.request_id, 10, 0, 1_000, usage_source="upstream")
    assert (settled.charge, harness.account.balance) == (admitted.hold, before)
    harness.assert_consistent()


def test_an_impossible_count_of_an_upstream_is_not_charged(harness: LedgerHarness) -> None:
    set_price(harness.database, MODEL, 1_000, 1_000)
    admitted = harness.admit(10, 10)
    settled = harness.settle(admitted.request_id, 2**53 - 1, 0, 2**53 - 1, usage_source="upstream")
    assert settled.charge == admitted.hold
    harness.assert_consistent()
