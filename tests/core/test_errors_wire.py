"""Every error of the tree survives the way between processes, and stored ones the way between versions."""

from datetime import UTC, datetime

import msgspec
import pytest

from dragoman.core import errors
from dragoman.core.errors import DragomanError
from dragoman.core.errors_wire import decode_error, encode_error
from dragoman.core.rate_limits import Allowance, Allowances

AT = datetime(2027, 1, 15, 8, tzinfo=UTC)
USED = Allowance(10, 10, 30)

EXAMPLES: tuple[DragomanError, ...] = (
    errors.DragomanError("Something else"),
    errors.BadRequest("No", "max_tokens"),
    errors.BadRequest("No"),
    errors.ContextOverflow(10, 5, "Shorten it.", at_least=True),
    errors.ModelNameTaken("pirate"),
    errors.AdapterMissing("Model 'pirate' is not available"),
    errors.RequestTooLarge(20, 10),
    errors.Unauthenticated("malformed"),
    errors.KeyUnknown(),
    errors.KeyDisabled(AT),
    errors.KeyExpired(expired_at=AT, now=AT),
    errors.Forbidden("This key may not register models"),
    errors.DialectNotAllowed("scale"),
    errors.AccountNotAllowed("acme"),
    errors.InsufficientBalance("Insufficient balance", limit=12, used=7, hold=9),
    errors.BalanceTooLow(account_id=1, balance=-5, used=7, hold=9),
    errors.BudgetExceeded(budget=12, spent=7, held=0, hold=9),
    errors.ModelNotFound("parrot"),
    errors.ModelNotAllowed("parrot"),
    errors.JobNotFound("job_1"),
    errors.RequestTimedOut("Too late"),
    errors.JobTimedOut("Late"),
    errors.JobCancelled("job_1"),
    errors.BodyTooLarge(1000),
    errors.UnsupportedEncoding("br", ("gzip", "deflate")),
    errors.IdempotencyConflict("The Idempotency-Key stands for another request"),
    errors.NoAccount("This server records no usage"),
    errors.Limited("Too many requests with wrong API keys", 3),
    errors.RateLimited("Limit of requests per minute reached", 3, Allowances(USED, None)),
    errors.RequestRateLimited(allowances=Allowances(USED, None), retry_after=3),
    errors.TokenRateLimited(allowances=Allowances(USED, USED), retry_after=3),
    errors.TooManyRunning(limit=4, running=4, retry_after=1),
    errors.Overloaded("Much to do", 5),
    errors.ModelLoading("The model is being loaded", 2),
    errors.ModelUnavailable("The model cannot be loaded at present", 2),
    errors.ShuttingDown("The server is shutting down", 5),
    errors.LedgerUnavailable("The accounts' database does not answer", 5),
    errors.EngineFailed("Broken"),
    errors.ReplicaFailed("Gone"),
    errors.UpstreamFailed("Broken off", "timed_out"),
    errors.UpstreamUnavailable("Gone", "limited", 2.5),
)

STORED: tuple[tuple[list[object], DragomanError], ...] = (
    (["bad", "No", "max_tokens"], errors.BadRequest("No", "max_tokens")),
    (["bad", "No", None], errors.BadRequest("No")),
    (["overflow", 10, 5, "Shorten it.", True], errors.ContextOverflow(10, 5, "Shorten it.", at_least=True)),
    (["model", "parrot"], errors.ModelNotFound("parrot")),
    (["timeout", "Late"], errors.JobTimedOut("Late")),
    (["failed", "Broken"], errors.EngineFailed("Broken")),
    (["upstream", "Broken off", "timed_out"], errors.UpstreamFailed("Broken off", "timed_out")),
)


def assert_equal(error: DragomanError, expected: DragomanError) -> None:
    assert type(error) is type(expected)
    assert (str(error), vars(error)) == (str(expected), vars(expected))


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_arrives_with_all_its_fields(error: DragomanError) -> None:
    assert_equal(decode_error(encode_error(error)), error)


def test_every_error_of_the_tree_is_tested() -> None:
    tree = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DragomanError)}
    assert tree == {type(error) for error in EXAMPLES}


@pytest.mark.parametrize(("stored", "error"), STORED)
def test_the_stored_format_of_earlier_versions_is_read_and_written(stored: list[object], error: DragomanError) -> None:
    assert encode_error(error) == msgspec.msgpack.encode(stored)
    assert_equal(decode_error(msgspec.msgpack.encode(stored)), error)


def test_a_subclass_outside_the_tree_arrives_as_its_base() -> None:
    class MalformedHeader(errors.BadRequest):
        def __init__(self, header: str) -> None:
            super().__init__(f"The header {header} is malformed", header)

    assert_equal(
        decode_error(encode_error(MalformedHeader("accept"))),
        errors.BadRequest("The header accept is malformed", "accept"),
    )


def test_the_cost_is_what_would_be_spent_with_the_request() -> None:
    assert errors.BalanceTooLow(account_id=1, balance=5, used=7, hold=9).limit == 12
    assert errors.BalanceTooLow(account_id=1, balance=5, used=7, hold=9).cost == 16
    assert errors.BudgetExceeded(budget=12, spent=7, held=0, hold=9).cost == 16
