"""Usage of the past: settled requests one by one, and sums by day."""

from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, Row, Select, Table, func, select

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import daily_usage, usage
from dragoman.accounts.ledger.attempts import RecordedAttempt, decode_attempts
from dragoman.accounts.ledger.operations import SettlementResult
from dragoman.accounts.times import DAY_MILLISECONDS
from dragoman.core.events import UsageSource

_SUM_COLUMNS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "charge")


class UsageFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects requests. None: any."""

    account_id: int | None = None
    key_id: int | None = None
    model: str | None = None
    first_day: int | None = None
    """Of the settlement, in days since 1970 (UTC)."""
    last_day: int | None = None


class UsageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A settled request."""

    id: int
    request_id: str
    account_id: int | None
    key_id: int | None
    price_id: int | None
    """The price of its tokens, see prices.get_price. None: free."""
    model: str
    dialect: str
    admitted_at: int
    settled_at: int
    result: SettlementResult
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    charge: int
    usage_source: UsageSource | None = None
    """Who counted the tokens. None: an engine of this server, before that was recorded."""
    first_token_ms: int | None = None
    """From the admission. None: there was no token, or nobody measured it."""
    attempts: str | None = None

    @property
    def recorded_attempts(self) -> list[RecordedAttempt]:
        """The attempts at replicas, in their order. None were recorded where one engine answers."""
        return decode_attempts(self.attempts)


class DailyUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of an account, key and model that were settled on one day. Account and key are 0 on an open server."""

    account_id: int
    key_id: int
    model: str
    day: int
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    charge: int


class UsageTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over many days."""

    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    charge: int
    models: int
    """The number of different models."""
    keys: int
    """The number of different keys."""
    first_day: int | None
    """The earliest day with requests. None: there are no requests."""
    last_day: int | None


class UsageSum(msgspec.Struct, frozen=True, kw_only=True):
    """The requests of one day, model or key."""

    group: int | str
    """The day in days since 1970 (UTC), the model, or the key's id; 0: without a key."""
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    charge: int


def list_usage(
    database: Database, usage_filter: UsageFilter | None = None, *, before: int | None = None, limit: int = 100
) -> list[UsageRecord]:
    """List up to `limit` requests, newest first; `before` is the id of the last request of the previous page."""
    usage_filter = usage_filter or UsageFilter()
    query = _filtered(select(usage), usage, usage_filter)
    if usage_filter.first_day is not None:
        query = query.where(usage.c.settled_at >= usage_filter.first_day * DAY_MILLISECONDS)
    if usage_filter.last_day is not None:
        query = query.where(usage.c.settled_at < (usage_filter.last_day + 1) * DAY_MILLISECONDS)
    if before is not None:
        query = query.where(usage.c.id < before)
    with database.read() as connection:
        rows = connection.execute(query.order_by(usage.c.id.desc()).limit(limit)).all()
    return [msgspec.convert(row, UsageRecord, from_attributes=True) for row in rows]


def list_daily_usage(
    database: Database, usage_filter: UsageFilter | None = None, *, limit: int = 100, offset: int = 0
) -> list[DailyUsage]:
    """List up to `limit` sums, latest day first."""
    column = daily_usage.c
    order = (column.day.desc(), column.account_id, column.key_id, column.model)
    query = (
        _filtered_days(select(daily_usage), usage_filter or UsageFilter()).order_by(*order).limit(limit).offset(offset)
    )
    with database.read() as connection:
        return [msgspec.convert(row, DailyUsage, from_attributes=True) for row in connection.execute(query)]


def total_usage(database: Database, usage_filter: UsageFilter | None = None) -> UsageTotals:
    """Sum all days."""
    column = daily_usage.c
    query = select(
        *_sums(),
        func.count(column.model.distinct()).label("models"),
        func.count(column.key_id.distinct()).label("keys"),
        func.min(column.day).label("first_day"),
        func.max(column.day).label("last_day"),
    )
    with database.read() as connection:
        row = connection.execute(_filtered_days(query, usage_filter or UsageFilter())).one()
    days = {"first_day": row.first_day, "last_day": row.last_day}
    return UsageTotals(**_read_sums(row), models=row.models, keys=row.keys, **days)


def sum_usage(
    database: Database,
    by: Literal["day", "model", "key_id"],
    usage_filter: UsageFilter | None = None,
    *,
    limit: int = 100,
) -> list[UsageSum]:
    """List up to `limit` sums: days latest first, models and keys by charge, highest first."""
    column = daily_usage.c[by]
    order = column.desc() if by == "day" else func.sum(daily_usage.c.charge).desc()
    query = _filtered_days(select(column.label("group"), *_sums()), usage_filter or UsageFilter())
    with database.read() as connection:
        rows = connection.execute(query.group_by(column).order_by(order, column).limit(limit)).all()
    return [UsageSum(group=row.group, **_read_sums(row)) for row in rows]


def _sums() -> list[ColumnElement[int]]:
    return [func.coalesce(func.sum(daily_usage.c[name]), 0).label(name) for name in _SUM_COLUMNS]


def _read_sums(row: Row[Any]) -> dict[str, int]:
    # PostgreSQL's sums are decimals.
    return {name: int(getattr(row, name)) for name in _SUM_COLUMNS}


def _filtered(query: Select[Any], table: Table, usage_filter: UsageFilter) -> Select[Any]:
    for name in ("account_id", "key_id", "model"):
        value = getattr(usage_filter, name)
        if value is not None:
            query = query.where(table.c[name] == value)
    return query


def _filtered_days(query: Select[Any], usage_filter: UsageFilter) -> Select[Any]:
    query = _filtered(query, daily_usage, usage_filter)
    if usage_filter.first_day is not None:
        query = query.where(daily_usage.c.day >= usage_filter.first_day)
    if usage_filter.last_day is not None:
        query = query.where(daily_usage.c.day <= usage_filter.last_day)
    return query
