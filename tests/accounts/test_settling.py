import msgspec
import pytest

from dragoman.accounts.operations import NeverAdmitted, Result, Settled, Settlement
from dragoman.accounts.usage import find_usage
from tests.support.accounts import CACHED_PRICE, COMPLETION_PRICE, PROMPT_PRICE, Till


@pytest.mark.parametrize("result", ["finished", "disconnected", "failed", "crashed"])
def test_the_tokens_told_are_paid_however_the_request_ended(till: Till, result: Result) -> None:
    admitted = till.admit(10, 100)
    settled = till.settle(admitted.request_id, prompt=10, cached=4, completion=7, result=result)
    assert settled.charge == 6 * PROMPT_PRICE + 4 * CACHED_PRICE + 7 * COMPLETION_PRICE
    account, key = till.account, till.key
    assert (account.holds, account.charges, account.balance) == (0, settled.charge, 1_000_000 - settled.charge)
    assert (key.held, key.running, key.spent) == (0, 0, settled.charge)
    till.assert_balanced()


def test_a_request_that_was_given_nothing_pays_nothing(till: Till) -> None:
    settled = till.settle(till.admit().request_id, 0, 0, 0, "failed")
    assert settled.charge == 0
    assert till.account.balance == 1_000_000
    till.assert_balanced()


def test_settling_again_gives_the_first_result_and_changes_nothing(till: Till) -> None:
    admitted = till.admit()
    first = Settlement(admitted.request_id, 10, 0, 3, "finished")
    second = Settlement(admitted.request_id, 10, 0, 9, "failed")
    outcomes = [*till.ledger.commit([first, second]), *till.ledger.commit([second])]
    charge = 10 * PROMPT_PRICE + 3 * COMPLETION_PRICE
    settled = Settled(admitted.request_id, charge, "finished")
    assert outcomes == [settled, *[msgspec.structs.replace(settled, repeated=True)] * 2]
    assert till.account.charges == charge
    till.assert_balanced()


def test_a_charge_never_exceeds_its_hold(till: Till) -> None:
    admitted = till.admit(10, 10)
    assert till.settle(admitted.request_id, 10, 0, 1000).charge == admitted.hold


def test_beyond_a_capped_hold_what_was_delivered_is_paid_even_below_zero(till: Till) -> None:
    till.admit(prompt=99_980, most=0)  # Leaves little in the account.
    capped = till.admit(10, 40, hold_cap=0)
    charge = till.settle(capped.request_id, 10, 0, 40).charge
    assert charge == 10 * PROMPT_PRICE + 40 * COMPLETION_PRICE
    assert till.account.balance < 0
    till.assert_balanced()


def test_nobody_pays_for_a_request_that_was_never_admitted(till: Till) -> None:
    outcomes = till.ledger.commit([Settlement("unknown", 1, 0, 1, "finished")])
    assert isinstance(outcomes[0], NeverAdmitted)


@pytest.mark.parametrize("counts", [(-1, 0, 0), (1, 2, 0), (0, 0, -1), (2**60, 0, 0)])
def test_token_counts_that_cannot_be_are_refused(till: Till, counts: tuple[int, int, int]) -> None:
    admitted = till.admit()
    (outcome,) = till.ledger.commit([Settlement(admitted.request_id, *counts, "finished")])
    assert isinstance(outcome, ValueError)
    assert till.key.running == 1


def test_usage_tells_what_a_charge_was_made_from(till: Till) -> None:
    admitted = till.admit(10, 10)
    settled = till.settle(admitted.request_id, 10, 4, 7)
    used = find_usage(till.database, admitted.request_id)
    assert used is not None
    assert (used.prompt_tokens, used.cached_tokens, used.completion_tokens) == (10, 4, 7)
    assert (used.charge, used.result, used.dialect) == (settled.charge, "finished", "arcee")
    assert used.price_id is not None
    assert used.admitted_at <= used.settled_at
    assert find_usage(till.database, "unknown") is None
