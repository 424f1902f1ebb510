"""The JSON bodies of the admin API.

Amounts are texts in units of a currency, "12.50", exact to nine digits after the point; times are RFC 3339 texts with
an offset; days are dates in UTC. Unknown fields are rejected.
"""

from datetime import date, datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dragoman.accounts.administration.accounts import DEFAULT_CURRENCY
from dragoman.dialects.registry import DialectName
from dragoman.server.upstream_changes import AddedUpstream

MAX_PAGE_ITEMS = 1000

Id = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Limit = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Amount = Annotated[str, Meta(max_length=40)]
Text = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f]*$")]
Time = Annotated[datetime, Meta(tz=True)]


class _RequestBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class NewAccount(_RequestBody, frozen=True, kw_only=True):
    name: Text
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$")] = DEFAULT_CURRENCY


class AccountBody(msgspec.Struct, frozen=True, kw_only=True):
    """`deposits = balance + holds + charges`, always."""

    id: int
    name: str
    currency: str
    created_at: datetime
    deposits: str
    balance: str
    """Available to new requests."""
    holds: str
    """On hold for running requests."""
    charges: str


class AccountPage(msgspec.Struct, frozen=True, kw_only=True):
    data: list[AccountBody]
    next: int | None
    """The next page's `after`. null: this is the last page."""


class NewDeposit(_RequestBody, frozen=True, kw_only=True):
    amount: Amount
    """Negative: a payout."""
    reference: Text | None = None
    """For example a payment's number. Deposits with the same reference are booked once."""
    note: Text | None = None


class DepositBody(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    account: int
    at: datetime
    amount: str
    reference: str | None
    note: str | None


class DepositPage(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    data: list[DepositBody]
    next: int | None
    """The next page's `before`."""


class NewKeyRequest(_RequestBody, frozen=True, kw_only=True):
    """A limit that is null or absent does not apply."""

    account: Id
    """The account that pays, unless a request selects another one."""
    other_accounts: tuple[Id, ...] = ()
    label: Annotated[str, Meta(max_length=255, pattern=r"^[^\x00-\x1f]*$")] = ""
    expires_at: Time | None = None
    models: tuple[Text, ...] | None = None
    dialects: tuple[DialectName, ...] | None = None
    budget: Amount | None = None
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    concurrent_requests: Limit | None = None


class KeyPatch(_RequestBody, frozen=True, kw_only=True):
    """Fields that are absent stay as they are. null removes a limit."""

    other_accounts: tuple[Id, ...] | UnsetType = UNSET
    label: Annotated[str, Meta(max_length=255, pattern=r"^[^\x00-\x1f]*$")] | UnsetType = UNSET
    expires_at: Time | UnsetType | None = UNSET
    models: tuple[Text, ...] | UnsetType | None = UNSET
    dialects: tuple[DialectName, ...] | UnsetType | None = UNSET
    budget: Amount | UnsetType | None = UNSET
    requests_per_minute: Limit | UnsetType | None = UNSET
    tokens_per_minute: Limit | UnsetType | None = UNSET
    concurrent_requests: Limit | UnsetType | None = UNSET
    disabled: bool | UnsetType = UNSET


class KeyBody(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    ending: str
    """The last characters of the secret."""
    label: str
    account: int
    accounts: tuple[int, ...]
    """All accounts that the key may use."""
    expires_at: datetime | None
    models: tuple[str, ...] | None
    dialects: tuple[str, ...] | None
    budget: str | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_requests: int | None
    created_at: datetime
    disabled_at: datetime | None
    spent: str
    held: str
    running: int


class CreatedKeyBody(KeyBody, frozen=True, kw_only=True):
    secret: str
    """The key itself. It is shown only here, and not stored."""


class KeyPage(msgspec.Struct, frozen=True, kw_only=True):
    data: list[KeyBody]
    next: int | None
    """The next page's `after`."""


class NewPrice(_RequestBody, frozen=True, kw_only=True):
    """Prices of a million tokens."""

    model: Text
    prompt: Amount
    completion: Amount
    cached: Amount | None = None
    """For prompt tokens from the cache. null: the price of other prompt tokens."""
    valid_from: Time | None = None
    """null: now."""


class PriceBody(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    model: str
    prompt: str
    cached: str
    completion: str
    valid_from: datetime
    created_at: datetime


class PriceList(msgspec.Struct, frozen=True, kw_only=True):
    """All past, current and future prices, by model and time."""

    data: list[PriceBody]


class ModelStateBody(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    ready: bool
    failure: str | None
    """Why the model cannot be loaded."""
    tool_format: str | None
    """The name of the markup in which the model calls tools. null: the model is not loaded."""
    supports_reasoning: bool | None
    """Whether the model can reason before it answers. null: the model is not loaded."""


class ModelName(_RequestBody, frozen=True, kw_only=True):
    model: Text
    """The name or an alias of a deployment."""


class ModelChangeBody(msgspec.Struct, frozen=True, kw_only=True):
    """A change that the server makes now. Loading takes seconds; unloading waits for the running requests."""

    model: str


class ReloadBody(msgspec.Struct, frozen=True):
    """A reload of the settings."""

    generation: int
    """Counts reloads, from 1 for the settings of the start."""
    changed: tuple[str, ...]
    """Settings that have other values now."""
    restart_needed: tuple[str, ...]
    """Settings that have other values in the file, and keep the old ones until the server is started again."""


class ModelStateList(msgspec.Struct, frozen=True, kw_only=True):
    """All deployments, as the worker that answers sees them."""

    data: list[ModelStateBody]


class UsageRecordBody(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    request_id: str
    account: int | None
    key: int | None
    price: int | None
    model: str
    dialect: str
    admitted_at: datetime
    settled_at: datetime
    result: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    charge: str
    usage_source: str | None = None
    """Who counted the tokens: `engine`, `upstream`, `counted`, `partial` or `estimated`."""


class UsagePage(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    data: list[UsageRecordBody]
    next: int | None
    """The next page's `before`."""


class DailyUsageBody(msgspec.Struct, frozen=True, kw_only=True):
    """The requests of an account with a key to a model on one day. Account and key 0: the server had no accounts."""

    day: date
    account: int
    key: int
    model: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    charge: str


class DailyUsagePage(msgspec.Struct, frozen=True, kw_only=True):
    """The latest day first."""

    data: list[DailyUsageBody]
    next: int | None
    """The next page's `offset`."""


class ChangeBody(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    at: datetime
    actor: str
    """The name of the admin key, or the user of the command line."""
    action: str
    subject: str
    details: dict[str, Any]


class ChangePage(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    data: list[ChangeBody]
    next: int | None
    """The next page's `before`."""


class NewUpstream(AddedUpstream, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another server that is to answer for a deployment."""

    deployment: Text


class UpstreamName(_RequestBody, frozen=True, kw_only=True):
    upstream: Text


class UpstreamBody(msgspec.Struct, frozen=True, kw_only=True):
    """A replica, as the worker that answers knows it."""

    upstream: str
    """Its name."""
    deployment: str
    url: str | None
    """None: an engine of the server's own machine."""
    ready: bool
    state: str
    """`closed` (it takes requests), `ejected`, `half_open` or `draining`."""
    returns_in_seconds: float | None
    """0: it is not ejected. None: it is draining."""
    paused_seconds: float
    """Time for which it has asked for no requests, with 429 or 503."""
    other_requests: int | None
    """Requests of other workers and clients, as it reports them itself. None: it does not, or not lately."""
    requests_in_flight: int
    tokens_in_flight: int
    weight: float
    priority: int
    concurrency: int | None


class UpstreamList(msgspec.Struct, frozen=True, kw_only=True):
    data: list[UpstreamBody]


class UpstreamChangeBody(msgspec.Struct, frozen=True, kw_only=True):
    """A change that all workers make within a second."""

    upstream: str
    deployment: str
    url: str | None
    draining: bool


class AfterQuery(_RequestBody, frozen=True, kw_only=True):
    after: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_ITEMS)] = 100


class KeysQuery(AfterQuery, frozen=True, kw_only=True):
    account: Id | None = None


class BeforeQuery(_RequestBody, frozen=True, kw_only=True):
    before: Id | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_ITEMS)] = 100


class PricesQuery(_RequestBody, frozen=True, kw_only=True):
    model: Text | None = None


class UsageQuery(BeforeQuery, frozen=True, kw_only=True):
    account: Id | None = None
    key: Id | None = None
    model: Text | None = None
    first_day: date | None = None
    last_day: date | None = None


class DailyUsageQuery(_RequestBody, frozen=True, kw_only=True):
    account: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    """0: requests without an account."""
    key: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    model: Text | None = None
    first_day: date | None = None
    last_day: date | None = None
    offset: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_ITEMS)] = 100


class AdminErrorDetail(msgspec.Struct, frozen=True):
    message: str


class AdminErrorBody(msgspec.Struct, frozen=True):
    error: AdminErrorDetail
