"""What the ledger refuses with, as an error that dialects know."""

from datetime import UTC, datetime

from dragoman.accounts.ledger import refusals
from dragoman.accounts.money import format_amount
from dragoman.accounts.times import to_datetime
from dragoman.core.errors import (
    BadRequest,
    DragomanError,
    Forbidden,
    InsufficientBalance,
    KeyExpired,
    Limited,
    ModelNotFound,
    Overloaded,
    RateLimited,
    TooManyRunning,
    Unauthenticated,
)
from dragoman.core.rate_limits import Allowances
from dragoman.core.service import Caller


def translate_refusal(refusal: refusals.LedgerRefusal, caller: Caller, model: str = "") -> DragomanError:
    """The same in core's tree; `model` is the name that was asked for."""
    match refusal:
        case refusals.KeyDisabled():
            return Unauthenticated("disabled", caller.key or "")
        case refusals.KeyExpired():
            return KeyExpired(to_datetime(refusal.expired_at), datetime.now(UTC), caller.key or "")
        case refusals.KeyRefused():
            return Unauthenticated("unknown", caller.key or "")
        case refusals.ModelNotAllowed():
            return ModelNotFound(model)
        case refusals.NotAllowed():
            return Forbidden(refusal.message)
        case refusals.InsufficientFunds():
            cost = format_amount(refusal.used + refusal.hold)
            return InsufficientBalance(refusal.message, limit=format_amount(refusal.limit), cost=cost)
        case refusals.RequestTooLarge():
            return BadRequest(refusal.message, "max_tokens")
        case refusals.RateLimited():
            allowances = Allowances(refusal.requests, refusal.tokens)
            return RateLimited(refusal.message, refusal.retry_after, allowances)
        case refusals.TooManyRunning():
            return TooManyRunning(refusal.message, refusal.retry_after, refusal.limit)
        case refusals.Limited():
            return Limited(refusal.message, refusal.retry_after)
        case refusals.LedgerUnavailable():
            return Overloaded(refusal.message, refusal.retry_after)
        case _:
            raise NotImplementedError(f"{type(refusal).__name__} has no words for clients yet")
