"""Usage over time: charts, the same figures as a table, and as CSV."""

import csv
import io
from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, get_args

import msgspec
from starlette.responses import Response

from dragoman.accounts.administration.usage_reports import (
    Grouping,
    RequestFilter,
    UsagePoint,
    UsageSpan,
    largest_groups,
    percentile_ms,
    usage_over_time,
)
from dragoman.accounts.database.connections import Database
from dragoman.accounts.times import HOUR_MILLISECONDS
from dragoman.core.money import format_amount
from dragoman.server.console.forms import Fields
from dragoman.server.console.names import Names, names_of
from dragoman.server.console.page import NO_OWN_RECORDS, PageRequest
from dragoman.server.console.viewers import ConsoleViewer


class Period(NamedTuple):
    """A period that people choose."""

    title: str
    hours: Literal[1, 6, 24]
    """How many hours stand together in a chart."""
    length: int
    """In these."""

    @property
    def unit(self) -> str:
        """What stands together, for people."""
        return {1: "hour", 24: "day"}.get(self.hours, f"{self.hours} hours")


PERIODS = {"24h": Period("Last 24 hours", 1, 24), "7d": Period("Last 7 days", 6, 28)} | {
    f"{days}d": Period(f"Last {days} days", 24, days) for days in (30, 90, 365)
}

_DEFAULT_PERIOD = "24h"
_COLOURS = 7
"""Groups with a colour of their own. All others are drawn together."""

_MAX_GROUPS = 100
"""Groups with a line of their own in the table, and in the CSV: there may be as many accounts as anybody can make."""

OTHERS = "others"


class UsageReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the page shows."""

    unit: str
    times: list[int]
    """The beginnings of all hours or days, in milliseconds since 1970."""
    groups: list[str]
    """Those of the charts, largest first."""
    series: dict[str, dict[str, list[int]]]
    """Figure → group of the table → value for each time."""
    first_token_p50: list[float | None] = []
    first_token_p95: list[float | None] = []
    table: list["UsageLine"]


class UsageLine(msgspec.Struct, frozen=True, kw_only=True):
    """The sums of one group over the whole period."""

    group: str
    requests: int
    errors: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    charge: int


FIGURES = ("requests", "errors", "prompt_tokens", "cached_tokens", "completion_tokens", "charge")


async def show(page: PageRequest) -> Response:
    """Show charts and table."""
    period, group, report = await _report(page)
    totals = {name: sum(getattr(line, name) for line in report.table) for name in FIGURES}
    return page.render(
        "usage.html",
        report=report,
        chart=msgspec.json.encode(_chart(report)).decode(),
        totals=totals,
        period=period,
        periods={name: each.title for name, each in PERIODS.items()},
        group=group,
        groupings=_groupings(page.viewer, PERIODS[period].unit),
        conditions=page.query.values(),
    )


async def download(page: PageRequest) -> Response:
    """Return a row for each time and group, as CSV. Amounts are decimals in units of the currency."""
    period, group, report = await _report(page)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([report.unit, group or "all", *FIGURES])
    for index, at in enumerate(report.times):
        for name in (line.group for line in report.table):
            values = [report.series[figure][name][index] for figure in FIGURES]
            if any(values):
                charge = format_amount(values.pop())
                moment = datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%dT%H:%MZ")
                writer.writerow([moment, _plain_cell(name), *values, charge])
    headers = {"content-disposition": f'attachment; filename="usage-{period}.csv"'}
    return Response(text.getvalue(), headers=headers, media_type="text/csv; charset=utf-8")


async def _report(page: PageRequest) -> tuple[str, Grouping | None, UsageReport]:
    query = page.query
    period = query.text("period") or _DEFAULT_PERIOD
    if period not in PERIODS:
        raise ValueError(f"The period must be one of {', '.join(PERIODS)}")
    if not page.viewer.sees_usage:
        raise NO_OWN_RECORDS
    group = _grouping(query, page.viewer, PERIODS[period].unit)
    return period, group, await page.read(_read, PERIODS[period], group, _filter(query, await page.wanted_account()))


def _grouping(query: Fields, viewer: ConsoleViewer, unit: str) -> Grouping | None:
    wanted = query.text("group") or "model"
    allowed = _groupings(viewer, unit)
    if wanted == "none":
        return None
    return next((name for name in get_args(Grouping) if name == wanted and name in allowed), "model")


def _groupings(viewer: ConsoleViewer, unit: str) -> dict[str, str]:
    names = {"model": "Model", "key_id": "Key"}
    if viewer.is_operator:
        names["account_id"] = "Account"
    if unit != "day":
        names["dialect"] = "Dialect"
    return {**names, "none": "Nothing"}


def _filter(query: Fields, account: int | None) -> RequestFilter:
    return RequestFilter(account_id=account, key_id=query.integer("key"), model=query.text("model"))


def _read(database: Database, period: Period, group: Grouping | None, shown: RequestFilter) -> UsageReport:
    milliseconds = period.hours * HOUR_MILLISECONDS
    with database.read() as connection:
        last = database.now(connection).wall // milliseconds
    span = UsageSpan(period.hours, last - period.length + 1, last)
    points = together = [] if group is not None and period.unit == "day" else usage_over_time(database, span, shown)
    if group is not None:
        only = largest_groups(database, span, shown, group=group, most=_MAX_GROUPS + 1)
        if len(only) <= _MAX_GROUPS:
            points = usage_over_time(database, span, shown, group)
        else:
            points = usage_over_time(database, span, shown, group, only=only[:_MAX_GROUPS])
            points += _rest(together or usage_over_time(database, span, shown), points)
    ids = {point.group for point in points if isinstance(point.group, int)}
    names = names_of(database, ids if group == "account_id" else (), ids if group == "key_id" else ())
    times = [number * milliseconds for number in range(span.first, last + 1)]
    report = _build(points, times, period.unit, {each: _group_name(each, group, names) for each in _distinct(points)})
    classes = {point.at: point.first_tokens for point in together}
    return msgspec.structs.replace(
        report,
        first_token_p50=[percentile_ms(classes.get(at, ()), 0.5) for at in times],
        first_token_p95=[percentile_ms(classes.get(at, ()), 0.95) for at in times],
    )


def _rest(together: list[UsagePoint], points: list[UsagePoint]) -> list[UsagePoint]:
    """Return what remains of all groups `together` without those of the points."""
    known: dict[int, Counter[str]] = defaultdict(Counter)
    for point in points:
        known[point.at].update({figure: getattr(point, figure) for figure in FIGURES})
    return [
        UsagePoint(at=each.at, group=None, **{name: getattr(each, name) - known[each.at][name] for name in FIGURES})
        for each in together
    ]


def _distinct(points: list[UsagePoint]) -> set[str | int | None]:
    return {point.group for point in points}


def _group_name(value: str | int | None, group: Grouping | None, names: Names) -> str:
    if value is None:
        return "all" if group is None else OTHERS
    if isinstance(value, str):
        return value
    if not value:
        return "without account" if group == "account_id" else "without key"
    if group == "account_id":
        return names.account(value)
    return f"{names.key(value)} ({value})"  # Several keys may have one label.


def _build(points: list[UsagePoint], times: list[int], unit: str, names: dict[Any, str]) -> UsageReport:
    lines: dict[str, dict[str, int]] = {}
    for point in points:
        sums = lines.setdefault(names[point.group], dict.fromkeys(FIGURES, 0))
        for figure in FIGURES:
            sums[figure] += getattr(point, figure)
    table = [UsageLine(group=name, **sums) for name, sums in lines.items()]
    table.sort(key=lambda line: (line.group == names.get(None), -line.charge, -_tokens(line), line.group))
    groups = [line.group for line in table[:_COLOURS]] + ([OTHERS] if len(table) > _COLOURS else [])
    index_of = {at: index for index, at in enumerate(times)}
    series = {figure: {line.group: [0] * len(times) for line in table} for figure in FIGURES}
    for point in points:
        for figure in FIGURES:
            series[figure][names[point.group]][index_of[point.at]] += getattr(point, figure)
    return UsageReport(unit=unit, times=times, groups=groups, series=series, table=table)


def _tokens(line: UsageLine) -> int:
    return line.prompt_tokens + line.completion_tokens


def _chart(report: UsageReport) -> dict[str, Any]:
    """Return the series that the page's script draws. Money is in units of the currency."""

    names = [line.group for line in report.table]
    drawn = [[name] for name in names[:_COLOURS]] + ([names[_COLOURS:]] if len(names) > _COLOURS else [])

    def stacked(*figures: str) -> list[list[int]]:
        parts = ([report.series[figure][name] for figure in figures for name in group] for group in drawn)
        return [[sum(values) for values in zip(*part, strict=True)] for part in parts]

    return {
        "unit": report.unit,
        "seconds": (report.times[1] - report.times[0]) // 1000,
        "times": [at // 1000 for at in report.times],
        "groups": report.groups,
        "tokens": stacked("prompt_tokens", "completion_tokens"),
        "requests": stacked("requests"),
        "errors": [sum(values) for values in zip(*stacked("errors"), strict=True)],
        "money": [[value / 10**9 for value in values] for values in stacked("charge")],
        "p50": report.first_token_p50,
        "p95": report.first_token_p95,
    }


def _plain_cell(text: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text
