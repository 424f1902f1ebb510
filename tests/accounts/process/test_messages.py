import sqlite3
import threading
from datetime import UTC, datetime

import msgspec
import pytest

from dragoman.accounts.ledger.operations import Admitted, KeyInfo, LedgerOutcome, NeverAdmitted, RequestIdTaken, Settled
from dragoman.accounts.process.messages import Committed, decode_reply, encode, pack_outcome, unpack_outcome
from dragoman.core.errors import (
    AccountNotAllowed,
    BalanceTooLow,
    BudgetExceeded,
    DialectNotAllowed,
    KeyDisabled,
    KeyExpired,
    KeyUnknown,
    LedgerUnavailable,
    ModelNotAllowed,
    RequestRateLimited,
    RequestTooLarge,
    TokenRateLimited,
    TooManyRunning,
)
from dragoman.core.frames import LENGTH_BYTES
from dragoman.core.money import InvalidAmount
from dragoman.core.rate_limits import Allowance, Allowances

AT = datetime(2027, 1, 15, 8, tzinfo=UTC)
WINDOW = Allowance(100, 100, 7)

EXCEPTIONS: list[Exception] = [
    KeyUnknown(),
    KeyDisabled(AT),
    KeyExpired(expired_at=AT, now=AT),
    DialectNotAllowed("scale"),
    ModelNotAllowed("parrot"),
    AccountNotAllowed("acme"),
    BalanceTooLow(account_id=1, balance=-5, used=20, hold=30),
    BudgetExceeded(budget=100, spent=60, held=30, hold=20),
    RequestTooLarge(2_000, 1_000),
    RequestRateLimited(allowances=Allowances(WINDOW, None), retry_after=7),
    TokenRateLimited(allowances=Allowances(None, WINDOW), retry_after=7),
    TooManyRunning(limit=3, running=3, retry_after=1),
    LedgerUnavailable("The accounts' database does not answer", 5),
    NeverAdmitted("request"),
    RequestIdTaken("request"),
    InvalidAmount("Request request: too much"),
    ValueError("'' is not a request id"),
    sqlite3.IntegrityError("UNIQUE constraint failed"),
    msgspec.DecodeError("JSON is malformed"),
]


def _sent(outcome: LedgerOutcome) -> LedgerOutcome:
    body = encode(Committed([pack_outcome(outcome)], synced=True))[LENGTH_BYTES:]
    reply = decode_reply(body)
    assert isinstance(reply, Committed)
    return unpack_outcome(reply.outcomes[0])


@pytest.mark.parametrize(
    "answer",
    [
        Admitted(request_id="request", account_id=1, key_id=2, hold=30, balance=70, requests=WINDOW),
        Admitted(request_id="request", account_id=None, key_id=None, hold=0, balance=None),
        Settled("request", 30, "disconnected", repeated=True),
        KeyInfo(key_id=1, account_id=2, balance=70, used=30, models=("parrot",), requests=WINDOW, tokens=None),
    ],
)
def test_an_answer_arrives_as_it_was_given(answer: LedgerOutcome) -> None:
    assert _sent(answer) == answer


@pytest.mark.parametrize("error", EXCEPTIONS, ids=lambda error: type(error).__name__)
def test_an_exception_arrives_with_all_its_fields(error: Exception) -> None:
    arrived = _sent(error)
    assert type(arrived) is type(error)
    assert (str(arrived), vars(arrived)) == (str(error), vars(error))


def test_an_exception_that_cannot_be_pickled_is_sent_by_name() -> None:
    arrived = _sent(KeyError(threading.Lock()))
    assert isinstance(arrived, RuntimeError)
    assert str(arrived).startswith("KeyError: ")
