"""Rows that the ledger reads and writes. The fields are columns, in the order of the table; construct by keyword."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from dragoman.accounts.database.sessions import Instant


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

    @property
    def is_limited(self) -> bool:
        """Whether it has a limit per minute."""
        return self.requests_per_minute is not None or self.tokens_per_minute is not None


class AccountRow(NamedTuple):
    """An account's totals that requests change."""

    id: int
    balance: int
    holds: int
    charges: int


class WindowRow(NamedTuple):
    """What was admitted for a key in the last minute."""

    key_id: int
    oldest: int
    """The second of the oldest bucket."""
    newest: int
    requests: int
    tokens: int


class BatchScope(NamedTuple):
    """The requests, keys and models of a transaction."""

    settled_ids: Collection[str]
    """Ids of the requests to settle."""
    admitted_ids: Collection[str]
    """Ids of the requests to admit."""
    key_digests: Collection[str]
    """Digests of the keys of all admissions and lookups."""
    selecting_digests: Collection[str]
    """The part of `key_digests` whose requests select an account."""
    models: Collection[str]
    """All that have to be priced."""


class LoadedRows(NamedTuple):
    """The rows of a transaction's scope, as they are once they are locked."""

    holds: Sequence[HoldRow]
    keys: Sequence[KeyRow]
    accounts: Sequence[AccountRow]
    now: Instant
    used_request_ids: Sequence[str]
    """The ids to be admitted that were used before."""
    windows: Sequence[WindowRow]
    prices: Sequence[PriceRow]
    """Those that are valid now."""
    selectable: Sequence[tuple[int, int, str]]
    """Ids of keys that select, and of the accounts that they may use, with the accounts' names."""


class ChangedRows(NamedTuple):
    """What a transaction writes. Values are in the order of the tables' columns; those of updates end with the id."""

    corrections: Sequence[Sequence[object]]
    """Tokens to add to the bucket of a key and a second: tokens, key, second."""
    holds: Sequence[HoldRow]
    movements: Sequence[MovementRow]
    usage: Sequence[UsageRow]
    daily: Sequence[Sequence[object]]
    hourly: Sequence[Sequence[object]]
    removed_holds: Sequence[str]
    """Request ids."""
    keys: Sequence[Sequence[object]]
    accounts: Sequence[Sequence[object]]
    buckets: Sequence[Sequence[object]]
    old_buckets: Sequence[Sequence[object]]
    """Keys, and the second before which all their buckets are deleted."""
