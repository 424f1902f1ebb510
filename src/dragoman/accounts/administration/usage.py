"""Looking back: settled requests one by one, and sums by day."""

from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, Select, Table, func, select

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import daily_usage, usage
from dragoman.accounts.ledger.batch import DAY_MILLISECONDS
from dragoman.accounts.ledger.operations import SettlementResult


class UsageFilter(msgspec.Struct, frozen=True):
    """Which requests. None: whichever."""

    account_id: int | None = None
    key_id: int | None = None
    model: str | None = None
    first_day: int | None = None
    """Days since 1970 (UTC), counted from when a request was settled."""
    last_day: int | None = None


class UsageRecord(msgspec.Struct, frozen=True):
    """A settled request."""

    id: int
    request_id: str
    account_id: int | None
    key_id: int | None
    price_id: int | None
    """What its tokens cost, see prices.get_price; None: nothing."""
    model: str
    dialect: str
    admitted_at: int
    settled_at: int
    result: SettlementResult
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    charge: int


class DailyUsage(msgspec.Struct, frozen=True):
    """The requests of an account, a key and a model that were settled on one day. Account and key 0: an open server."""

    account_id: int
    key_id: int
    model: str
    day: int
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    charge: int


class UsageTotals(msgspec.Struct, frozen=True):
    """Sums of many days."""

    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    charge: int
    models: int
    """How many different ones."""
    keys: int
    first_day: int | None
    """The earliest with any requests; None: there are none."""
    last_day: int | None


class UsageSum(msgspec.Struct, frozen=True):
    """The requests of one day, model or key."""

    group: int | str
    """The day in days since 1970 (UTC), the model, or the key's id; 0: nobody's."""
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    charge: int


def day_number_of(milliseconds: int) -> int:
    """The day, in days since 1970 (UTC), of a time in milliseconds."""
    return milliseconds // DAY_MILLISECONDS


def list_usage(
    database: Database, usage_filter: UsageFilter | None = None, *, before: int | None = None, limit: int = 100
) -> list[UsageRecord]:
    """Up to `limit` requests, newest first; `before` is the id of the last one that was seen."""
    usage_filter = usage_filter or UsageFilter()
    query = _filtered(select(usage), usage, usage_filter)
    if usage_filter.first_day is not None:
        query = query.where(usage.c.settled_at >= usage_filter.first_day * DAY_MILLISECONDS)
    if usage_filter.last_day is not None:
        query = query.where(usage.c.settled_at < (usage_filter.last_day + 1) * DAY_MILLISECONDS)
    if before is not None:
        query = query.where(usage.c.id < before)
    with database.read() as connection:
        return [UsageRecord(*row) for row in connection.execute(query.order_by(usage.c.id.desc()).limit(limit))]


def find_usage(database: Database, request_id: str) -> UsageRecord | None:
    """What a request has used; None if it is not settled."""
    with database.read() as connection:
        row = connection.execute(select(usage).where(usage.c.request_id == request_id)).one_or_none()
    return None if row is None else UsageRecord(*row)


def list_daily_usage(
    database: Database, usage_filter: UsageFilter | None = None, *, limit: int = 100, offset: int = 0
) -> list[DailyUsage]:
    """Up to `limit` sums, the latest day first."""
    column = daily_usage.c
    order = (column.day.desc(), column.account_id, column.key_id, column.model)
    query = (
        _filtered_days(select(daily_usage), usage_filter or UsageFilter()).order_by(*order).limit(limit).offset(offset)
    )
    with database.read() as connection:
        return [DailyUsage(*row) for row in connection.execute(query)]


def total_usage(database: Database, usage_filter: UsageFilter | None = None) -> UsageTotals:
    """The sums of all days."""
    column = daily_usage.c
    sums = [func.coalesce(each, 0) for each in _sums()]
    counts = [func.count(column[name].distinct()) for name in ("model", "key_id")]
    days = [func.min(column.day), func.max(column.day)]
    with database.read() as connection:
        row = connection.execute(_filtered_days(select(*sums, *counts, *days), usage_filter or UsageFilter())).one()
    return UsageTotals(*map(int, row[:7]), *row[7:])


def sum_usage(
    database: Database,
    by: Literal["day", "model", "key_id"],
    usage_filter: UsageFilter | None = None,
    *,
    limit: int = 100,
) -> list[UsageSum]:
    """Up to `limit` sums: of days the latest first, of models and keys those first that were charged most."""
    column = daily_usage.c[by]
    order = column.desc() if by == "day" else func.sum(daily_usage.c.charge).desc()
    query = (
        _filtered_days(select(column, *_sums()), usage_filter or UsageFilter()).group_by(column).order_by(order, column)
    )
    with database.read() as connection:
        return [UsageSum(row[0], *map(int, row[1:])) for row in connection.execute(query.limit(limit))]


def _sums() -> list[ColumnElement[int]]:
    names = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "charge")
    return [func.sum(daily_usage.c[name]) for name in names]


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
