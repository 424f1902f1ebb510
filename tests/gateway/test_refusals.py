from collections.abc import Iterator

import pytest

from dragoman.accounts import refusals
from dragoman.core.allowance import Allowance, Allowances
from dragoman.core.errors import Limited, OutOfBalance, RateLimited, TooManyRunning
from dragoman.core.service import Caller
from dragoman.gateway.refusals import translated

CALLER = Caller("0" * 32, "sk-0123456789abcdef")
USED = Allowance(10, 10, 30)

EXAMPLES: list[refusals.Refusal] = [
    refusals.KeyUnknown(),
    refusals.KeyDisabled(0),
    refusals.KeyExpired(0),
    refusals.DialectNotAllowed("scale"),
    refusals.ModelNotAllowed("echo"),
    refusals.AccountNotAllowed("acme"),
    refusals.BalanceTooLow(1, 5, 7, 9),
    refusals.BudgetExceeded(12, 7, 0, 9),
    refusals.RequestTooLarge(20, 10),
    refusals.RequestRateLimited("requests per minute", USED, 30, USED, None),
    refusals.TokenRateLimited("tokens per minute", USED, 30, None, USED),
    refusals.TooManyRunning("concurrent requests", 4, 4, 1),
    refusals.LedgerUnavailable("The database does not answer", 5),
]


def kinds(base: type[refusals.Refusal]) -> Iterator[type[refusals.Refusal]]:
    """All that the ledger may raise: what nothing is derived from."""
    derived = base.__subclasses__()
    for each in derived:
        yield from kinds(each)
    if not derived:
        yield base


def test_every_refusal_of_the_ledger_has_words_for_clients() -> None:
    assert {type(each) for each in EXAMPLES} == set(kinds(refusals.Refusal))
    for refusal in EXAMPLES:
        assert translated(refusal, CALLER, "echo").message


@pytest.mark.parametrize("refusal", [EXAMPLES[6], EXAMPLES[7]])
def test_what_a_request_costs_is_told_beside_what_there_was(refusal: refusals.Refusal) -> None:
    error = translated(refusal, CALLER)
    assert isinstance(error, OutOfBalance)
    assert (error.limit, error.cost) == ("0.000000012", "0.000000016")


def test_limits_are_told_with_what_is_left_and_when_to_come_back() -> None:
    requests, tokens, running = (translated(refusal, CALLER) for refusal in EXAMPLES[9:12])
    assert isinstance(requests, RateLimited)
    assert isinstance(tokens, RateLimited)
    assert isinstance(running, TooManyRunning)
    assert (requests.allowances, tokens.allowances) == (Allowances(USED, None), Allowances(None, USED))
    assert [each.retry_after for each in (requests, tokens, running) if isinstance(each, Limited)] == [30, 30, 1]
