"""Reports for people: pages of requests, and sums of usage over time.

No query reads more rows than a page needs, however many requests are stored: pages continue after the last row of the
one before, and sums are read from tables that every settlement adds to.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    TextClause,
    bindparam,
    cast,
    func,
    select,
    text,
)

from dragoman.accounts.administration.usage import UsageRecord
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import (
    FIRST_TOKEN_BOUNDS_MS,
    FIRST_TOKEN_CLASSES,
    daily_usage,
    hourly_usage,
    usage,
)
from dragoman.accounts.times import DAY_MILLISECONDS, HOUR_MILLISECONDS

SCANNED_ROWS = 10_000
"""Rows that one page searches for conditions without an index. The next page continues behind them."""

_FEW_ROWS = 500

_SUMS = ("requests", "errors", "prompt_tokens", "cached_tokens", "completion_tokens", "charge")

_FILTERED = ("account_id", "key_id", "model", "dialect")
"""Columns that sums are filtered by."""

IS_ERROR = "result IN ('failed', 'crashed')"
"""The condition of the index usage_errors."""

Grouping = Literal["model", "key_id", "account_id", "dialect"]


class RequestFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects requests. None: any."""

    account_id: int | None = None
    key_id: int | None = None
    model: str | None = None
    dialect: str | None = None
    errors: bool = False
    """Only requests that failed or crashed."""
    min_seconds: float | None = None
    """Only requests that took at least as long, from admission to settlement."""


class RequestPage(msgspec.Struct, frozen=True):
    """Requests, newest first."""

    rows: list[UsageRecord]
    next: int | None
    """The next page's `before`. None: this is the last page."""


class UsagePoint(msgspec.Struct, frozen=True, kw_only=True):
    """The requests of one hour or day, and of one group."""

    at: int
    """The beginning of the hour or day, in milliseconds since 1970 (UTC)."""
    group: str | int | None
    """A model, dialect, or the id of a key or account (0: without). None: all requests."""
    requests: int
    errors: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    charge: int
    first_tokens: tuple[int, ...] = ()
    """Requests by the class of their time to the first token, see FIRST_TOKEN_BOUNDS_MS. Only of hours."""


def list_requests(
    database: Database,
    request_filter: RequestFilter,
    *,
    before: int | None = None,
    limit: int = 50,
    scanned_rows: int = SCANNED_ROWS,
) -> RequestPage:
    """List up to `limit` requests; `before` is the `next` of the previous page.

    Account, key and errors have an index. For the other conditions, `scanned_rows` are searched for one page, so a page
    may have few rows, or none, and still a `next`.
    """
    rest = _unindexed_conditions(request_filter)
    with database.read() as connection:
        # Most pages are full after the first few rows.
        for most in (min(_FEW_ROWS, scanned_rows), scanned_rows) if rest else (limit + 1,):
            found = _search(connection, request_filter, before, most, limit + 1)
            if len(found) > limit:
                break
        next_before = found[limit - 1].id if len(found) > limit else None
        if next_before is None and rest:
            ids = _indexed_rows(request_filter, before).with_only_columns(usage.c.id)
            next_before = connection.execute(ids.offset(scanned_rows - 1).limit(1)).scalar_one_or_none()
    rows = [msgspec.convert(row, UsageRecord, from_attributes=True) for row in found[:limit]]
    return RequestPage(rows, next_before)


def find_request(database: Database, request_id: str, account_id: int | None = None) -> UsageRecord | None:
    """Return the settled request with this id, and of this account if one is given. None: there is none."""
    query = select(usage).where(usage.c.request_id == request_id)
    if account_id is not None:
        query = query.where(usage.c.account_id == account_id)
    if not request_id.isascii() or "\0" in request_id:
        return None
    with database.read() as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else msgspec.convert(row, UsageRecord, from_attributes=True)


def usage_by_hour(
    database: Database,
    first: int,
    last: int,
    request_filter: RequestFilter,
    group: Grouping | None = None,
    only: Sequence[str | int] | None = None,
) -> list[UsagePoint]:
    """Sum the hours `first` to `last`, in hours since 1970, earliest first; of the groups `only` if they are given.

    Times to the first token are summed without a group only. The filter's `errors` and `min_seconds` do not count.
    """
    column = hourly_usage.c
    query = _sums_over_time(hourly_usage, column.hour, _names(group), group).where(column.hour.between(first, last))
    with database.read() as connection:
        rows = connection.execute(_filtered_sums(query, hourly_usage, request_filter, group, only)).all()
    return [_point(row, HOUR_MILLISECONDS, grouped=group is not None) for row in rows]


def usage_by_six_hours(
    database: Database,
    first: int,
    last: int,
    request_filter: RequestFilter,
    group: Grouping | None = None,
    only: Sequence[str | int] | None = None,
) -> list[UsagePoint]:
    """Sum six hours at a time, `first` to `last` in units of six hours since 1970; otherwise as `usage_by_hour`.

    Most of it is summed already; the rest is read from the hours behind that.
    """
    wanted = _wanted(request_filter)
    parameters: dict[str, Any] = {"first": first, "last": last, **wanted}
    if only is not None:
        parameters["only"] = list(only)
    with database.read() as connection:
        query = _six_hourly_query(group, tuple(wanted), only is not None)
        rows = connection.execute(query, parameters).all()
    return [_point(row, 6 * HOUR_MILLISECONDS, grouped=group is not None) for row in rows]


@functools.cache
def _six_hourly_query(group: Grouping | None, filtered: tuple[str, ...], is_limited: bool) -> TextClause:
    """Return the query of `usage_by_six_hours`. As a text: to build its columns takes longer than to run it."""
    key = ("unit",) if group is None else ("unit", group)
    columns = ", ".join((*key[1:], *_names(group)))
    sums = ", ".join(f"CAST(SUM({name}) AS BIGINT) AS {name}" for name in _names(group))
    conditions = _conditions(filtered) + (f" AND {group} IN :only" if is_limited else "")
    source = _six_hourly_rows(columns, conditions)
    query = text(
        f"SELECT {', '.join(key)}, {sums} FROM ({source}) AS summed GROUP BY {', '.join(key)} ORDER BY {', '.join(key)}"
    )
    return query.bindparams(bindparam("only", expanding=True)) if is_limited else query


def _six_hourly_rows(columns: str, conditions: str) -> str:
    return (
        f"SELECT six_hours AS unit, {columns} FROM six_hourly_usage "
        f"WHERE six_hours BETWEEN :first AND :last{conditions} "
        f"UNION ALL SELECT hour / 6, {columns} FROM hourly_usage WHERE hour BETWEEN :first * 6 AND :last * 6 + 5 "
        f"AND hour >= (SELECT COALESCE(MAX(six_hours) + 1, 0) * 6 FROM six_hourly_usage){conditions}"
    )


def usage_by_day(
    database: Database,
    first: int,
    last: int,
    request_filter: RequestFilter,
    group: Grouping | None = None,
    only: Sequence[str | int] | None = None,
) -> list[UsagePoint]:
    """Sum the days `first` to `last`, in days since 1970, earliest first; otherwise as `usage_by_hour`.

    Days are not separated by dialect.

    Raises ValueError for a dialect as filter or group.
    """
    if group == "dialect" or request_filter.dialect is not None:
        raise ValueError("days are not summed by dialect; ask for hours")
    column = daily_usage.c
    query = _sums_over_time(daily_usage, column.day, _SUMS, group).where(column.day.between(first, last))
    with database.read() as connection:
        rows = connection.execute(_filtered_sums(query, daily_usage, request_filter, group, only)).all()
    return [_point(row, DAY_MILLISECONDS, grouped=group is not None) for row in rows]


def largest_groups(
    database: Database,
    hours: Literal[1, 6, 24],
    first: int,
    last: int,
    *,
    request_filter: RequestFilter,
    group: Grouping,
    most: int,
) -> list[str | int]:
    """Return up to `most` groups, those with the largest charges, or else with the most tokens, first.

    `first` and `last` are in units of so many `hours` since 1970, as of the functions that sum them.
    """
    wanted = _wanted(request_filter)
    query = _largest_groups_query(hours, group, tuple(wanted))
    with database.read() as connection:
        return list(connection.execute(query, {"first": first, "last": last, "most": most, **wanted}).scalars())


@functools.cache
def _largest_groups_query(hours: Literal[1, 6, 24], group: Grouping, filtered: tuple[str, ...]) -> TextClause:
    columns, conditions = f"{group}, charge, prompt_tokens, completion_tokens", _conditions(filtered)
    if hours == 6:
        source = _six_hourly_rows(columns, conditions)
    else:
        table, unit = ("hourly_usage", "hour") if hours == 1 else ("daily_usage", "day")
        source = f"SELECT {columns} FROM {table} WHERE {unit} BETWEEN :first AND :last{conditions}"
    order = f"SUM(charge) DESC, SUM(prompt_tokens + completion_tokens) DESC, {group}"
    return text(f"SELECT {group} FROM ({source}) AS summed GROUP BY {group} ORDER BY {order} LIMIT :most")


def percentile_ms(classes: Sequence[int], fraction: float) -> float | None:
    """Estimate a percentile of times to the first token, in milliseconds, by linear interpolation within its class.

    The last class has no upper bound; its lower one is returned. None: nothing was measured.
    """
    total = sum(classes)
    if not total:
        return None
    rank, lower = fraction * total, 0
    for count, upper in zip(classes, FIRST_TOKEN_BOUNDS_MS, strict=False):
        if count and rank <= count:
            return lower + (upper - lower) * max(rank, 0) / count
        rank -= count
        lower = upper
    return float(lower)


def add_classes(points: Sequence[UsagePoint]) -> tuple[int, ...]:
    """Add the classes of several points up."""
    return tuple(map(sum, zip(*(point.first_tokens for point in points), strict=True)))


def _indexed_rows(request_filter: RequestFilter, before: int | None) -> Select[Any]:
    query = select(usage).order_by(usage.c.id.desc())
    if before is not None:
        query = query.where(usage.c.id < before)
    if request_filter.key_id is not None:
        query = query.where(usage.c.key_id == request_filter.key_id)
    if request_filter.account_id is not None:
        query = query.where(usage.c.account_id == request_filter.account_id)
    return query.where(text(f"usage.{IS_ERROR}")) if request_filter.errors else query


def _search(
    connection: Connection, request_filter: RequestFilter, before: int | None, most: int, limit: int
) -> Sequence[Row[Any]]:
    """Return up to `limit` requests among `most` that the index finds."""
    scanned = _indexed_rows(request_filter, before).limit(most).subquery("usage")
    rest = _unindexed_conditions(request_filter)
    query = select(scanned).where(*(text(condition) for condition in rest)).order_by(scanned.c.id.desc())
    parameters = {
        "model": request_filter.model,
        "dialect": request_filter.dialect,
        "milliseconds": round((request_filter.min_seconds or 0) * 1000),
    }
    used = {name: value for name, value in parameters.items() if any(f":{name}" in each for each in rest)}
    return connection.execute(query.limit(limit), used).all()


def _unindexed_conditions(request_filter: RequestFilter) -> list[str]:
    conditions = {
        "model = :model": request_filter.model,
        "dialect = :dialect": request_filter.dialect,
        "settled_at - admitted_at >= :milliseconds": request_filter.min_seconds,
    }
    return [condition for condition, value in conditions.items() if value is not None]


def _names(group: Grouping | None) -> Sequence[str]:
    return (*_SUMS, *FIRST_TOKEN_CLASSES) if group is None else _SUMS


def _sums_over_time(
    table: Table, unit: ColumnElement[int], names: Sequence[str], group: Grouping | None
) -> Select[Any]:
    columns = [unit.label("unit"), *([] if group is None else [table.c[group]])]
    # PostgreSQL's sums are decimals, which are slow to read.
    sums = [cast(func.sum(table.c[name]), BigInteger).label(name) for name in names]
    return select(*columns, *sums).group_by(*columns).order_by(*columns)


def _filtered_sums(
    query: Select[Any],
    table: Table,
    request_filter: RequestFilter,
    group: Grouping | None,
    only: Sequence[str | int] | None,
) -> Select[Any]:
    for name, value in _wanted(request_filter).items():
        query = query.where(table.c[name] == value)
    return query if only is None or group is None else query.where(table.c[group].in_(only))


def _wanted(request_filter: RequestFilter) -> Mapping[str, Any]:
    """Return what sums are filtered by."""
    values = {name: getattr(request_filter, name) for name in _FILTERED}
    return {name: value for name, value in values.items() if value is not None}


def _conditions(filtered: Sequence[str]) -> str:
    return "".join(f" AND {name} = :{name}" for name in filtered)


def _point(row: Sequence[Any], milliseconds: int, *, grouped: bool) -> UsagePoint:
    # By position: access by name takes most of the time of a long report.
    requests, errors, prompt_tokens, cached_tokens, completion_tokens, charge, *classes = row[1 + grouped :]
    return UsagePoint(
        at=row[0] * milliseconds,
        group=row[1] if grouped else None,
        requests=requests,
        errors=errors,
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        completion_tokens=completion_tokens,
        charge=charge,
        first_tokens=tuple(classes),
    )
