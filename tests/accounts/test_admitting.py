"""What an admission is refused for, and the facts that a client is told then."""

from typing import TypeVar

import pytest

from dragoman.accounts.balances import create_account, deposit
from dragoman.accounts.keys import KeyRules, change_key, disable_key, enable_key
from dragoman.accounts.money import InvalidAmount
from dragoman.accounts.operations import Admitted, Inquiry, KeyFacts, RequestIdTaken
from dragoman.accounts.prices import set_price
from dragoman.accounts.refusals import (
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
from tests.support.accounts import COMPLETION_PRICE, MODEL, PROMPT_PRICE, Till

Kind = TypeVar("Kind")

COST = 10 * PROMPT_PRICE + 10 * COMPLETION_PRICE
"""Of a request of 10 prompt tokens and at most 10 more."""


def told(outcome: object, kind: type[Kind]) -> Kind:
    assert isinstance(outcome, kind)
    return outcome


def test_what_a_request_may_cost_is_held(till: Till) -> None:
    admitted = till.admit(10, 10)
    assert (admitted.hold, admitted.balance) == (COST, 1_000_000 - COST)
    assert (till.account.balance, till.account.holds) == (1_000_000 - COST, COST)
    assert (till.key.held, till.key.running) == (COST, 1)
    till.assert_balanced()


def test_a_key_nobody_has_opens_nothing(till: Till) -> None:
    told(till.ask(key_digest="0" * 64), KeyUnknown)


def test_a_disabled_key_is_refused_at_once_and_enabled_again(till: Till) -> None:
    disabled = disable_key(till.database, till.key_id)
    assert told(till.ask(), KeyDisabled).disabled_at == disabled.disabled_at
    enable_key(till.database, till.key_id)
    till.admit()


def test_an_expired_key_is_refused_with_its_time(till: Till) -> None:
    change_key(till.database, till.key_id, rules=KeyRules(expires_at=1_600_000_000_000))
    assert told(till.ask(), KeyExpired).expired_at == 1_600_000_000_000
    change_key(till.database, till.key_id, rules=KeyRules(expires_at=4_000_000_000_000))
    till.admit()


def test_a_key_is_for_its_models_and_dialects(till: Till) -> None:
    till.use(KeyRules(models=(MODEL,), dialects=("scale",)))
    till.admit(dialect="scale")
    assert told(till.ask(), DialectNotAllowed).dialect == "arcee"
    assert told(till.ask(dialect="scale", model="owl"), ModelNotAllowed).model == "owl"


def test_the_account_selected_pays_if_the_key_may_use_it(till: Till) -> None:
    other, foreign = create_account(till.database, "other"), create_account(till.database, "foreign")
    deposit(till.database, other.id, 1000)
    change_key(till.database, till.key_id, other_accounts=[other.id])
    assert till.admit().account_id == till.account_id
    for selected in ("other", str(other.id)):
        assert till.admit(account=selected).account_id == other.id
    assert told(till.ask(account="other"), BalanceTooLow).account_id == other.id
    for forbidden in ("foreign", str(foreign.id), "nobody", ""):
        assert told(till.ask(account=forbidden), AccountNotAllowed).account == forbidden


def test_a_balance_that_does_not_cover_the_hold_is_told(till: Till) -> None:
    till.admit(prompt=99_990, most=0)
    refusal = told(till.ask(10, 10), BalanceTooLow)
    assert (refusal.balance, refusal.hold) == (10 * PROMPT_PRICE, COST)
    assert (refusal.limit, refusal.used) == (1_000_000, 99_990 * PROMPT_PRICE)
    till.admit(0, 0)  # What costs nothing needs no balance.


def test_a_budget_covers_what_was_spent_and_what_is_held(till: Till) -> None:
    till.use(KeyRules(budget=3 * COST))
    till.settle(till.admit().request_id)
    till.admit()
    refusal = told(till.ask(10, 30), BudgetExceeded)
    assert (refusal.budget, refusal.spent, refusal.held) == (3 * COST, COST, COST)
    till.admit()
    told(till.ask(), BudgetExceeded)


def test_requests_per_minute_are_told_with_what_is_left(till: Till) -> None:
    till.use(KeyRules(requests_per_minute=2, tokens_per_minute=1000))
    admitted = till.admit(10, 10)
    assert admitted.requests is not None
    assert admitted.tokens is not None
    assert (admitted.requests.remaining, admitted.tokens.remaining) == (1, 980)
    till.admit()
    refusal = told(till.ask(), RequestRateLimited)
    assert (refusal.limit, refusal.current) == (2, 2)
    assert 55 <= refusal.retry_after <= 61
    assert refusal.tokens is not None
    assert refusal.tokens.used == 40


def test_tokens_that_were_not_used_come_back_when_a_request_is_settled(till: Till) -> None:
    till.use(KeyRules(tokens_per_minute=100))
    admitted = till.admit(10, 80)
    refusal = told(till.ask(10, 10), TokenRateLimited)
    assert (refusal.limit, refusal.current, refusal.requests) == (100, 90, None)
    till.settle(admitted.request_id, prompt=10, completion=5)
    assert till.admit(10, 75).request_id
    told(till.ask(1, 0), TokenRateLimited)


def test_more_tokens_than_a_minute_has_can_never_be_admitted(till: Till) -> None:
    till.use(KeyRules(tokens_per_minute=100))
    refusal = told(till.ask(10, 91), RequestTooLarge)
    assert (refusal.tokens, refusal.limit) == (101, 100)


def test_requests_at_once_are_counted_until_they_are_settled(till: Till) -> None:
    till.use(KeyRules(concurrent_requests=2))
    first, _ = till.admit(), till.admit()
    refusal = told(till.ask(), TooManyRunning)
    assert (refusal.limit, refusal.current, refusal.retry_after) == (2, 2, 1)
    till.settle(first.request_id)
    till.admit()


def test_refused_requests_count_and_cost_nothing(till: Till) -> None:
    till.use(KeyRules(requests_per_minute=5, budget=COST))
    till.admit()
    for _ in range(10):
        told(till.ask(), BudgetExceeded)
    assert till.key.running == 1
    till.assert_balanced()


def test_a_capped_hold_is_smaller_than_what_the_request_may_cost(till: Till) -> None:
    assert till.admit(10, 1000, hold_cap=20).hold == 10 * PROMPT_PRICE + 20 * COMPLETION_PRICE
    assert till.admit(10, 10, hold_cap=20).hold == COST


def test_an_id_that_was_used_before_is_told(till: Till) -> None:
    running, ended = till.admit(), till.admit()
    till.settle(ended.request_id)
    for request_id in (running.request_id, ended.request_id):
        assert told(till.ask(request_id=request_id), RequestIdTaken).request_id == request_id
    till.assert_balanced()


@pytest.mark.parametrize("request_id", ["a" * 65, "é", "\N{SNOWMAN}"])
def test_ids_that_no_journal_can_hold_are_told(till: Till, request_id: str) -> None:
    told(till.ask(request_id=request_id), ValueError)


def test_one_request_that_nobody_could_pay_does_not_disturb_the_others(till: Till) -> None:
    set_price(till.database, "gold", 2**62, 2**62)
    outcomes = till.ledger.commit([till.admission(), till.admission(2, 1, model="gold"), till.admission()])
    told(outcomes[1], InvalidAmount)
    assert till.key.running == 2
    till.assert_balanced()


def test_text_that_a_database_cannot_hold_disturbs_nobody_else(till: Till) -> None:
    outcomes = till.ledger.commit([till.admission(), till.admission(model="\ud800"), till.admission(model="\0")])
    told(outcomes[0], Admitted)
    told(outcomes[1], UnicodeEncodeError)
    told(outcomes[2], Admitted if till.database.is_sqlite else Exception)
    till.assert_balanced()


def test_an_open_server_admits_everybody_and_holds_nothing(till: Till) -> None:
    admitted = till.admit(key_digest=None)
    assert (admitted.account_id, admitted.key_id, admitted.hold, admitted.balance) == (None, None, 0, None)
    assert till.settle(admitted.request_id).charge == 0
    till.assert_balanced()


def test_an_inquiry_tells_whose_key_it_is_and_counts_nothing(till: Till) -> None:
    till.use(KeyRules(models=(MODEL,), requests_per_minute=1))
    for _ in range(3):
        (outcome,) = till.ledger.commit([Inquiry(till.digest, "arcee")])
        facts = told(outcome, KeyFacts)
    assert (facts.account_id, facts.balance, facts.used, facts.models) == (till.account_id, 1_000_000, 0, (MODEL,))
    assert facts.requests is not None
    assert facts.requests.remaining == 1
    (unknown,) = till.ledger.commit([Inquiry("0" * 64, "arcee")])
    told(unknown, KeyUnknown)
