"""Rows that the ledger reads and writes. The fields are columns, in the order of the table; construct by keyword."""

from typing import NamedTuple


class HoldRow(NamedTuple):
    """The maximum cost of a running request, and the prices it was computed from."""

    request_id: str
    process_id: int
    account_id: int | None
    key_id: int | None
    price_id: int | None
    model: str
    dialect: str
    admitted_at: int
    amount: int
    """Held."""
    most_charge: int
    """The maximum cost; more than `amount` if the hold was capped."""
    prompt_price: int
    cached_price: int
    completion_price: int
    counted_second: int | None
    """The second of the rate bucket that counts the request. None: the key has no limits per minute."""
    counted_tokens: int
    fallbacks: str | None = None
    """The terms of the request's model and of those that it may fall back to, as JSON. None: it falls back to none."""


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
    usage_source: str | None = None
    first_token_ms: int | None = None
    attempts: str | None = None


class MovementRow(NamedTuple):
    """How a request changed its account's totals."""

    account_id: int
    at: int
    kind: str
    request_id: str
    deposits: int
    balance: int
    holds: int
    charges: int


class PriceRow(NamedTuple):
    """The prices of a model, in nano-units per token."""

    id: int | None
    model: str
    prompt: int
    cached: int
    completion: int


class ModelTerms(NamedTuple):
    """What a request costs if this model answers it."""

    model: str
    price: PriceRow
    most_charge: int
    """The maximum cost."""


class KeyRow(NamedTuple):
    """The part of a key that an admission needs."""

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
