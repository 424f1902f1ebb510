from collections.abc import Iterator

import pytest

from dragoman.accounts.ledger import refusals
from dragoman.core.errors import InsufficientBalance, Limited, RateLimited, TooManyRunning
from dragoman.core.rate_limits import Allowance, Allowances
from dragoman.core.service import Caller
from dragoman.gateway.admission.refusals import translate_refusal

CALLER = Caller("0" * 32, "sk-0123456789abcdef")
USED = Allowance(10, 10, 30)

EXAMPLES: list[refusals.LedgerRefusal] = [
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


def kinds(base: type[refusals.LedgerRefusal]) -> Iterator[type[refusals.LedgerRefusal]]:
    """All that the ledger may raise: what nothing is derived from."""
    derived = base.__subclasses__()
    for each in derived:
        yield from kinds(each)
    if not derived:
        yield base


def test_every_ledger_refusal_is_translated() -> None:
    assert {type(each) for each in EXAMPLES} == set(kinds(refusals.LedgerRefusal))
    for refusal in EXAMPLES:
        assert translate_refusal(refusal, CALLER, "echo").message


@pytest.mark.parametrize("refusal", [EXAMPLES[6], EXAMPLES[7]])
def test_insufficient_balance_reports_its_limit_and_the_cost(refusal: refusals.LedgerRefusal) -> None:
    error = translate_refusal(refusal, CALLER)
    assert isinstance(error, InsufficientBalance)
    assert (error.limit, error.cost) == ("0.000000012", "0.000000016")


def test_rate_limits_report_the_remainder_and_when_to_retry() -> None:
    requests, tokens, running = (translate_refusal(refusal, CALLER) for refusal in EXAMPLES[9:12])
    assert isinstance(requests, RateLimited)
    assert isinstance(tokens, RateLimited)
    assert isinstance(running, TooManyRunning)
    assert (requests.allowances, tokens.allowances) == (Allowances(USED, None), Allowances(None, USED))
    assert [each.retry_after for each in (requests, tokens, running) if isinstance(each, Limited)] == [30, 30, 1]
