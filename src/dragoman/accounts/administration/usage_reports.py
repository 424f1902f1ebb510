"""Reports for people: pages of requests, and sums of usage over time.

No query reads more rows than a page needs, however many requests are stored: pages continue after the last row of the
one before, and sums are read from tables that every settlement adds to.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, Row, Select, TextClause, bindparam, select, text

from dragoman.accounts.administration.usage import UsageRecord
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import FIRST_TOKEN_BOUNDS_MS, FIRST_TOKEN_CLASSES, usage
from dragoman.accounts.times import HOUR_MILLISECONDS

SCANNED_ROWS = 10_000
"""Rows that one page searches for conditions without an index. The next page continues behind them."""

_FEW_ROWS = 500

_SUMS = ("requests", "errors", "prompt_tokens", "cached_tokens", "completion_tokens", "charge")

_FILTERED = ("account_id", "key_id", "model", "dialect")
"""Columns that sums are filtered by."""

IS_ERROR = "result IN ('failed', 'crashed')"
"""The condition of the index usage_errors."""

Grouping = Literal["model", "key_id", "account_id", "dialect"]

UnitHours = Literal[1, 6, 24]


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


class UsageSpan(msgspec.Struct, frozen=True):
    """A time whose usage is summed in units of so many `hours`."""

    hours: UnitHours
    first: int
    """The first and the last unit, in units since 1970."""
    last: int


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


def usage_over_time(
    database: Database,
    span: UsageSpan,
    request_filter: RequestFilter,
    group: Grouping | None = None,
    only: Sequence[str | int] | None = None,
) -> list[UsagePoint]:
    """Sum the requests in each unit of a span, earliest first, of each group apart; of the groups `only` if given.

    Times to the first token are summed without a group only, and of days not at all. The filter's `errors` and
    `min_seconds` do not count.

    Raises ValueError for a dialect as filter or group of days, which are not separated by dialect.
    """
    if span.hours == 24 and (group == "dialect" or request_filter.dialect is not None):
        raise ValueError("days are not summed by dialect; ask for hours")
    wanted = _wanted(request_filter)
    query = _sums_query(span.hours, group, tuple(wanted), only is not None)
    parameters = {"first": span.first, "last": span.last, **wanted, **({} if only is None else {"only": list(only)})}
    with database.read() as connection:
        rows = connection.execute(query, parameters).all()
    return [_point(row, span.hours * HOUR_MILLISECONDS, grouped=group is not None) for row in rows]


def largest_groups(
    database: Database, span: UsageSpan, request_filter: RequestFilter, *, group: Grouping, most: int
) -> list[str | int]:
    """Return up to `most` groups, those with the largest charges, or else with the most tokens, first."""
    wanted = _wanted(request_filter)
    query = _largest_groups_query(span.hours, group, tuple(wanted))
    parameters = {"first": span.first, "last": span.last, "most": most, **wanted}
    with database.read() as connection:
        return list(connection.execute(query, parameters).scalars())


# As texts, since to build a query of so many columns takes longer than to run it.


@functools.cache
def _sums_query(hours: UnitHours, group: Grouping | None, filtered: tuple[str, ...], is_limited: bool) -> TextClause:
    key = ("unit",) if group is None else ("unit", group)
    names = (*_SUMS, *FIRST_TOKEN_CLASSES) if group is None and hours != 24 else _SUMS
    # PostgreSQL's sums are decimals, which are slow to read.
    sums = ", ".join(f"CAST(SUM({name}) AS BIGINT) AS {name}" for name in names)
    source = _rows(hours, (*key[1:], *names), _conditions(filtered) + (f" AND {group} IN :only" if is_limited else ""))
    keys = ", ".join(key)
    query = text(f"SELECT {keys}, {sums} FROM ({source}) AS summed GROUP BY {keys} ORDER BY {keys}")
    return query.bindparams(bindparam("only", expanding=True)) if is_limited else query


@functools.cache
def _largest_groups_query(hours: UnitHours, group: Grouping, filtered: tuple[str, ...]) -> TextClause:
    source = _rows(hours, (group, "charge", "prompt_tokens", "completion_tokens"), _conditions(filtered))
    order = f"SUM(charge) DESC, SUM(prompt_tokens + completion_tokens) DESC, {group}"
    return text(f"SELECT {group} FROM ({source}) AS summed GROUP BY {group} ORDER BY {order} LIMIT :most")


def _rows(hours: UnitHours, names: Sequence[str], conditions: str) -> str:
    """Return the query of a span's rows. Most of six hours is summed already; the rest is in the hours behind that."""
    columns = ", ".join(names)
    if hours != 6:
        table, unit = ("hourly_usage", "hour") if hours == 1 else ("daily_usage", "day")
        return f"SELECT {unit} AS unit, {columns} FROM {table} WHERE {unit} BETWEEN :first AND :last{conditions}"
    return (
        f"SELECT six_hours AS unit, {columns} FROM six_hourly_usage "
        f"WHERE six_hours BETWEEN :first AND :last{conditions} "
        f"UNION ALL SELECT hour / 6, {columns} FROM hourly_usage WHERE hour BETWEEN :first * 6 AND :last * 6 + 5 "
        f"AND hour >= (SELECT COALESCE(MAX(six_hours) + 1, 0) * 6 FROM six_hourly_usage){conditions}"
    )


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
