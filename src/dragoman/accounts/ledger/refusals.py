"""Why the ledger says no. Every refusal tells the facts that a dialect's own words for it need.

Refusal
├── KeyRefused                nobody comes in with this key
│   ├── KeyUnknown
│   ├── KeyDisabled
│   └── KeyExpired
├── NotAllowed                the key is good, but not for this
│   ├── DialectNotAllowed
│   ├── ModelNotAllowed       to be answered like an unknown model
│   └── AccountNotAllowed
├── InsufficientFunds
│   ├── BalanceTooLow         of the account
│   └── BudgetExceeded        of the key
├── RequestTooLarge           it asks for more tokens than a minute may have, and so can never succeed
├── Limited                   a later try may succeed; says when
│   ├── RateLimited
│   │   ├── RequestRateLimited
│   │   └── TokenRateLimited
│   └── TooManyRunning
└── LedgerUnavailable         the database does not answer, or too much is waiting for it

Amounts are in nano-units, times in milliseconds since 1970 (UTC), `retry_after` in whole seconds, at least 1.
"""

from typing import Any

from dragoman.accounts.money import format_amount
from dragoman.core.rate_limits import Allowance


class LedgerRefusal(Exception):
    """Base of everything the ledger refuses with. `message` is for people and holds no secret."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[object, ...]:
        # It comes from another process, with all its facts, whatever the arguments that they were made of.
        return _rebuild_refusal, (type(self), self.__dict__)


def _rebuild_refusal(kind: type[LedgerRefusal], facts: dict[str, Any]) -> LedgerRefusal:
    refusal = kind.__new__(kind)
    LedgerRefusal.__init__(refusal, facts["message"])
    refusal.__dict__.update(facts)
    return refusal


class KeyRefused(LedgerRefusal):
    """Nobody comes in with this key."""


class KeyUnknown(KeyRefused):
    """No key has this digest."""

    def __init__(self) -> None:
        super().__init__("Invalid API key")


class KeyDisabled(KeyRefused):
    """The key was disabled or revoked at `disabled_at`."""

    def __init__(self, disabled_at: int) -> None:
        super().__init__("The API key is disabled")
        self.disabled_at = disabled_at


class KeyExpired(KeyRefused):
    """The key was good until `expired_at`."""

    def __init__(self, expired_at: int) -> None:
        super().__init__("The API key has expired")
        self.expired_at = expired_at


class NotAllowed(LedgerRefusal):
    """The key is good, but not for this."""


class DialectNotAllowed(NotAllowed):
    """The key is for other dialects."""

    def __init__(self, dialect: str) -> None:
        super().__init__(f"The API key may not be used for the {dialect} API")
        self.dialect = dialect


class ModelNotAllowed(NotAllowed):
    """The key is for other models. Clients are told what they are told of an unknown model."""

    def __init__(self, model: str) -> None:
        super().__init__(f"The API key may not use model '{model}'")
        self.model = model


class AccountNotAllowed(NotAllowed):
    """The key may not use the account that was asked for, or there is none of this name."""

    def __init__(self, account: str) -> None:
        super().__init__(f"The API key has no access to account '{account}'")
        self.account = account


class InsufficientFunds(LedgerRefusal):
    """`hold` would have to be set aside, and `used` of the `limit` is spent or held already."""

    def __init__(self, message: str, *, limit: int, used: int, hold: int) -> None:
        super().__init__(message)
        self.limit = limit
        self.used = used
        self.hold = hold


class BalanceTooLow(InsufficientFunds):
    """The account's balance, which has no running request's hold in it, is smaller than the hold.

    The limit is what was paid in.
    """

    def __init__(self, account_id: int, balance: int, used: int, hold: int) -> None:
        message = f"Insufficient balance: {format_amount(balance)}, needed {format_amount(hold)}"
        super().__init__(message, limit=balance + used, used=used, hold=hold)
        self.account_id = account_id
        self.balance = balance


class BudgetExceeded(InsufficientFunds):
    """The key's own budget does not cover what it spent, what its running requests hold, and this hold."""

    def __init__(self, budget: int, spent: int, held: int, hold: int) -> None:
        super().__init__(
            f"The API key's budget of {format_amount(budget)} is used up: {format_amount(spent)} spent, "
            f"{format_amount(held)} held for running requests, needed {format_amount(hold)}",
            limit=budget,
            used=spent + held,
            hold=hold,
        )
        self.budget = budget
        self.spent = spent
        self.held = held


class RequestTooLarge(LedgerRefusal):
    """Prompt and longest answer have more `tokens` than the key may use in a minute (`limit`)."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"The request asks for up to {tokens} tokens, and the API key may use {limit} a minute. "
            "Shorten the prompt or ask for fewer tokens"
        )
        self.tokens = tokens
        self.limit = limit


class Limited(LedgerRefusal):
    """A later try may succeed. `current` is what was in use before this request."""

    def __init__(self, limit_name: str, limit: int, current: int, retry_after: int) -> None:
        super().__init__(f"Limit of {limit} {limit_name} reached, retry in {max(1, retry_after)} seconds")
        self.limit = limit
        self.current = current
        self.retry_after = max(1, retry_after)


class RateLimited(Limited):
    """A limit per minute. Both windows are told, as far as the key has them."""

    def __init__(
        self,
        limit_name: str,
        limited: Allowance,
        retry_after: int,
        requests: Allowance | None,
        tokens: Allowance | None,
    ) -> None:
        super().__init__(limit_name, limited.limit, limited.used, retry_after)
        self.requests = requests
        self.tokens = tokens


class RequestRateLimited(RateLimited):
    """Requests per minute."""


class TokenRateLimited(RateLimited):
    """Tokens per minute: those of prompts and answers, and of running requests the most they may become."""


class TooManyRunning(Limited):
    """Requests of the key that run at the same time."""


class LedgerUnavailable(LedgerRefusal):
    """The database does not answer, or too much is waiting for it."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = max(1, retry_after)
