"""What an account has and has used."""

from typing import Protocol

import msgspec


class UsageRange(msgspec.Struct, frozen=True):
    """A selection of an account's requests; None selects all. Days are counted since 1970 (UTC)."""

    first_day: int | None = None
    last_day: int | None = None
    model: str | None = None


class DailyTotals(msgspec.Struct, frozen=True, kw_only=True):
    """The requests to one model with one key of one account, on one day."""

    day: int
    account_id: int
    key_id: int
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int


class UsageSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over several days."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    keys: int
    models: int
    first_day: int | None
    """The first day with requests; None: there are no requests."""
    last_day: int | None


class AccountUsage(Protocol):
    """The usage of one account."""

    @property
    def balance(self) -> int:
        """What new requests may use, in nano-units."""
        ...

    async def days(self, usage_range: UsageRange, *, limit: int, offset: int) -> list[DailyTotals]:
        """List up to `limit` totals after the first `offset`, latest day first. Raises Overloaded."""
        ...

    async def summary(self, usage_range: UsageRange) -> UsageSummary:
        """Sum all days. Raises Overloaded."""
        ...
