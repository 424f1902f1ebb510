"""The reasons to refuse an admission, and the facts that each refusal carries."""

from typing import TypeVar

import pytest

from dragoman.accounts.administration.accounts import create_account, deposit
from dragoman.accounts.administration.keys import KeyRules, change_key, disable_key, enable_key
from dragoman.accounts.administration.prices import set_price
from dragoman.accounts.ledger.operations import Admitted, KeyInfo, KeyLookup, RequestIdTaken
from dragoman.accounts.times import to_datetime
from dragoman.core.errors import (
    AccountNotAllowed,
    BalanceTooLow,
    BudgetExceeded,
    DialectNotAllowed,
    KeyDisabled,
    KeyExpired,
    KeyUnknown,
    ModelNotAllowed,
    RequestRateLimited,
    RequestTooLarge,
    TokenRateLimited,
    TooManyRunning,
)
from dragoman.core.money import InvalidAmount
from dragoman.core.rate_limits import Allowance
from tests.support.ledger_harness import COMPLETION_PRICE, MODEL, PROMPT_PRICE, LedgerHarness

Kind = TypeVar("Kind")

COST = 10 * PROMPT_PRICE + 10 * COMPLETION_PRICE
"""The cost of a request of 10 prompt tokens and at most 10 completion tokens."""


def expect(outcome: object, kind: type[Kind]) -> Kind:
    assert isinstance(outcome, kind)
    return outcome


def test_the_maximum_cost_of_a_request_is_held(harness: LedgerHarness) -> None:
    admitted = harness.admit(10, 10)
    assert (admitted.hold, admitted.balance) == (COST, 1_000_000 - COST)
    assert (harness.account.balance, harness.account.holds) == (1_000_000 - COST, COST)
    assert (harness.key.held, harness.key.running) == (COST, 1)
    harness.assert_consistent()


def test_an_unknown_key_is_refused(harness: LedgerHarness) -> None:
    expect(harness.try_admit(key_digest="0" * 64), KeyUnknown)


def test_a_disabled_key_is_refused_immediately_and_enabled_again(harness: LedgerHarness) -> None:
    disabled = disable_key(harness.database, harness.key_id)
    assert disabled.disabled_at is not None
    assert expect(harness.try_admit(), KeyDisabled).disabled_at == to_datetime(disabled.disabled_at)
    enable_key(harness.database, harness.key_id)
    harness.admit()


def test_an_expired_key_is_refused_with_its_time(harness: LedgerHarness) -> None:
    change_key(harness.database, harness.key_id, rules=KeyRules(expires_at=1_600_000_000_000))
    assert expect(harness.try_admit(), KeyExpired).expired_at == to_datetime(1_600_000_000_000)
    change_key(harness.database, harness.key_id, rules=KeyRules(expires_at=4_000_000_000_000))
    harness.admit()


def test_a_key_is_limited_to_its_models_and_dialects(harness: LedgerHarness) -> None:
    harness.use_new_key(KeyRules(models=(MODEL,), dialects=("scale",)))
    harness.admit(dialect="scale")
    assert expect(harness.try_admit(), DialectNotAllowed).dialect == "arcee"
    assert expect(harness.try_admit(dialect="scale", model="owl"), ModelNotAllowed).model == "owl"


def test_the_account_selected_pays_if_the_key_may_use_it(harness: LedgerHarness) -> None:
    other, foreign = create_account(harness.database, "other"), create_account(harness.database, "foreign")
    deposit(harness.database, other.id, 1000)
    change_key(harness.database, harness.key_id, other_accounts=[other.id])
    assert harness.admit().account_id == harness.account_id
    for selected in ("other", str(other.id)):
        assert harness.admit(account=selected).account_id == other.id
    assert expect(harness.try_admit(account="other"), BalanceTooLow).account_id == other.id
    for forbidden in ("foreign", str(foreign.id), "nobody", ""):
        assert expect(harness.try_admit(account=forbidden), AccountNotAllowed).account == forbidden


def test_a_balance_below_the_hold_is_refused_with_the_amounts(harness: LedgerHarness) -> None:
    harness.admit(prompt=99_990, max_completion=0)
    refusal = expect(harness.try_admit(10, 10), BalanceTooLow)
    assert (refusal.balance, refusal.hold) == (10 * PROMPT_PRICE, COST)
    assert (refusal.limit, refusal.used) == (1_000_000, 99_990 * PROMPT_PRICE)
    harness.admit(0, 0)  # A free request needs no balance.


def test_a_budget_covers_what_was_spent_and_what_is_held(harness: LedgerHarness) -> None:
    harness.use_new_key(KeyRules(budget=3 * COST))
    harness.settle(harness.admit().request_id)
    harness.admit()
    refusal = expect(harness.try_admit(10, 30), BudgetExceeded)
    assert (refusal.budget, refusal.spent, refusal.held) == (3 * COST, COST, COST)
    harness.admit()
    expect(harness.try_admit(), BudgetExceeded)


def test_requests_per_minute_are_limited_and_the_remaining_allowance_is_reported(harness: LedgerHarness) -> None:
    harness.use_new_key(KeyRules(requests_per_minute=2, tokens_per_minute=1000))
    admitted = harness.admit(10, 10)
    assert admitted.requests is not None
    assert admitted.tokens is not None
    assert (admitted.requests.remaining, admitted.tokens.remaining) == (1, 980)
    harness.admit()
    refusal = expect(harness.try_admit(), RequestRateLimited)
    requests, tokens = refusal.allowances
    assert requests is not None
    assert (requests.limit, requests.used) == (2, 2)
    assert 55 <= refusal.retry_after <= 61
    assert tokens is not None
    assert tokens.used == 40


def test_unused_tokens_are_returned_when_a_request_is_settled(harness: LedgerHarness) -> None:
    harness.use_new_key(KeyRules(tokens_per_minute=100))
    admitted = harness.admit(10, 80)
    refusal = expect(harness.try_admit(10, 10), TokenRateLimited)
    requests, tokens = refusal.allowances
    assert tokens is not None
    assert (tokens.limit, tokens.used, requests) == (100, 90, None)
    harness.settle(admitted.request_id, prompt=10, completion=5)
    assert harness.admit(10, 75).request_id
    expect(harness.try_admit(1, 0), TokenRateLimited)


def test_more_tokens_than_a_minute_has_can_never_be_admitted(harness: LedgerHarness) -> None:
    harness.use_new_key(KeyRules(tokens_per_minute=100))
    refusal = expect(harness.try_admit(10, 91), RequestTooLarge)
    assert (refusal.tokens, refusal.limit) == (101, 100)


def test_concurrent_requests_are_counted_until_they_are_settled(harness: LedgerHarness) -> None:
    harness.use_new_key(KeyRules(concurrent_requests=2))
    first, _ = harness.admit(), harness.admit()
    refusal = expect(harness.try_admit(), TooManyRunning)
    assert (refusal.limit, refusal.running, refusal.retry_after) == (2, 2, 1)
    harness.settle(first.request_id)
    harness.admit()


def test_refused_requests_count_and_cost_nothing(harness: LedgerHarness) -> None:
    harness.use_new_key(KeyRules(requests_per_minute=5, budget=COST))
    harness.admit()
    for _ in range(10):
        expect(harness.try_admit(), BudgetExceeded)
    assert harness.key.running == 1
    harness.assert_consistent()


def test_a_capped_hold_is_smaller_than_what_the_request_may_cost(harness: LedgerHarness) -> None:
    assert harness.admit(10, 1000, hold_cap=20).hold == 10 * PROMPT_PRICE + 20 * COMPLETION_PRICE
    assert harness.admit(10, 10, hold_cap=20).hold == COST


def test_a_request_id_that_was_used_before_is_refused(harness: LedgerHarness) -> None:
    running, ended = harness.admit(), harness.admit()
    harness.settle(ended.request_id)
    for request_id in (running.request_id, ended.request_id):
        assert expect(harness.try_admit(request_id=request_id), RequestIdTaken).request_id == request_id
    harness.assert_consistent()


@pytest.mark.parametrize("request_id", ["a" * 65, "é", "\N{SNOWMAN}"])
def test_request_ids_that_no_journal_can_hold_are_refused(harness: LedgerHarness, request_id: str) -> None:
    expect(harness.try_admit(request_id=request_id), ValueError)


def test_a_request_with_an_overflowing_price_does_not_affect_others(harness: LedgerHarness) -> None:
    set_price(harness.database, "gold", 2**62, 2**62)
    outcomes = harness.ledger.commit([harness.admission(), harness.admission(2, 1, model="gold"), harness.admission()])
    expect(outcomes[1], InvalidAmount)
    assert harness.key.running == 2
    harness.assert_consistent()


def test_text_that_the_database_cannot_store_does_not_affect_others(harness: LedgerHarness) -> None:
    outcomes = harness.ledger.commit(
        [harness.admission(), harness.admission(model="\ud800"), harness.admission(model="\0")]
    )
    expect(outcomes[0], Admitted)
    expect(outcomes[1], UnicodeEncodeError)
    expect(outcomes[2], Admitted if harness.database.is_sqlite else Exception)
    harness.assert_consistent()


def test_a_server_without_keys_admits_every_request_and_holds_nothing(harness: LedgerHarness) -> None:
    admitted = harness.admit(key_digest=None)
    assert (admitted.account_id, admitted.key_id, admitted.hold, admitted.balance) == (None, None, 0, None)
    assert harness.settle(admitted.request_id).charge == 0
    harness.assert_consistent()


def test_a_key_lookup_returns_the_key_info_and_counts_nothing(harness: LedgerHarness) -> None:
    harness.use_new_key(KeyRules(models=(MODEL,), requests_per_minute=1))
    for _ in range(3):
        (outcome,) = harness.ledger.commit([KeyLookup(harness.digest, "arcee")])
        facts = expect(outcome, KeyInfo)
    assert (facts.account_id, facts.balance, facts.used, facts.models) == (harness.account_id, 1_000_000, 0, (MODEL,))
    assert facts.requests is not None
    assert facts.requests.remaining == 1
    (unknown,) = harness.ledger.commit([KeyLookup("0" * 64, "arcee")])
    expect(unknown, KeyUnknown)


def test_a_check_refuses_where_nothing_is_left_and_holds_and_counts_nothing(harness: LedgerHarness) -> None:
    harness.use_new_key(KeyRules(requests_per_minute=1, concurrent_requests=1, budget=COST))
    for _ in range(3):
        assert expect(harness.try_admit(1, 1, is_check=True), Admitted).hold == 0
    assert (harness.key.held, harness.key.running) == (0, 0)
    admitted = harness.admit(10, 10)
    expect(harness.try_admit(1, 1, is_check=True), RequestRateLimited)
    change_key(harness.database, harness.key_id, rules=KeyRules(concurrent_requests=1, budget=COST))
    assert expect(harness.try_admit(1, 1, is_check=True), BudgetExceeded).held == COST
    change_key(harness.database, harness.key_id, rules=KeyRules(concurrent_requests=1, budget=COST + 1))
    expect(harness.try_admit(1, 1, is_check=True), Admitted)
    expect(harness.try_admit(0, 0, is_check=True, key_digest="0" * 64), KeyUnknown)
    harness.settle(admitted.request_id)
    harness.assert_consistent()


def test_a_lookup_may_count_towards_the_requests_of_a_minute(harness: LedgerHarness) -> None:
    harness.use_new_key(KeyRules(requests_per_minute=2))
    counting = KeyLookup(harness.digest, "arcee", counts=True)
    first, second, third = harness.ledger.commit([counting] * 3)
    assert expect(first, KeyInfo).requests == Allowance(2, 1, 61)
    assert expect(second, KeyInfo).requests == Allowance(2, 2, 61)
    expect(third, RequestRateLimited)
    expect(harness.try_admit(), RequestRateLimited)
    harness.assert_consistent()


def test_an_adapter_without_a_price_costs_what_its_model_does(harness: LedgerHarness) -> None:
    set_price(harness.database, "priced", 1, 2)
    [unpriced, priced, both_free] = harness.ledger.commit(
        [
            harness.admission(10, 10, model="account 1/poet", base_model=MODEL),
            harness.admission(10, 10, model="priced", base_model=MODEL),
            harness.admission(10, 10, model="account 1/poet", base_model="free"),
        ]
    )
    assert isinstance(unpriced, Admitted)
    assert isinstance(priced, Admitted)
    assert isinstance(both_free, Admitted)
    assert unpriced.hold == 10 * PROMPT_PRICE + 10 * COMPLETION_PRICE
    assert priced.hold == 10 * 1 + 10 * 2
    assert both_free.hold == 0
