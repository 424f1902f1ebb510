"""Rows as the ledger reads and writes them: the fields are columns, in the order of the table."""

from typing import NamedTuple


class HoldRow(NamedTuple):
    """What a running request may cost, and how that was reckoned."""

    request_id: str
    process_id: int
    account_id: int | None
    key_id: int | None
    price_id: int | None
    model: str
    dialect: str
    admitted_at: int
    amount: int
    """Set aside."""
    most_charge: int
    """More than the amount where that was capped."""
    prompt_price: int
    cached_price: int
    completion_price: int
    counted_second: int | None
    """The bucket of the key's limits per minute that the request is counted in."""
    counted_tokens: int


class UsageRow(NamedTuple):
    """A settled request."""

    request_id: str
    account_id: int | None
    key_id: int | None
    price_id: int | None
    model: str
    dialect: str
    admitted_at: int
    settled_at: int
    result: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    charge: int


class MovementRow(NamedTuple):
    """What a request changed an account's totals by."""

    account_id: int
    at: int
    kind: str
    request_id: str
    deposits: int
    balance: int
    holds: int
    charges: int


class PriceRow(NamedTuple):
    """What a token costs, in nano-units."""

    id: int | None
    model: str
    prompt: int
    cached: int
    completion: int

    def cost(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> int:
        """What the tokens cost; the cached ones are among those of the prompt."""
        computed = prompt_tokens - cached_tokens
        return computed * self.prompt + cached_tokens * self.cached + completion_tokens * self.completion


class KeyRow(NamedTuple):
    """What of a key is needed to admit a request."""

    id: int
    digest: str
    account_id: int
    expires_at: int | None
    disabled_at: int | None
    models: str | None
    dialects: str | None
    budget: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_requests: int | None
    spent: int
    held: int
    running: int


class AccountRow(NamedTuple):
    """An account's totals that requests change."""

    id: int
    balance: int
    holds: int
    charges: int
