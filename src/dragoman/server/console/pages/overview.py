"""The overview: what the server does now, and what it did in the last day."""

from typing import Any

from starlette.responses import Response

from dragoman.accounts.administration.accounts import get_account
from dragoman.accounts.administration.keys import get_key
from dragoman.accounts.administration.usage_reports import (
    RequestFilter,
    UsagePoint,
    UsageSpan,
    add_classes,
    list_requests,
    percentile_ms,
    usage_over_time,
)
from dragoman.accounts.database.connections import Database
from dragoman.accounts.times import HOUR_MILLISECONDS
from dragoman.server.console.names import read_names
from dragoman.server.console.page import PageRequest
from dragoman.server.console.viewers import ConsoleViewer

_HOURS = 24
_LATEST = 8
"""Requests that are listed."""


async def show(page: PageRequest) -> Response:
    """Show the figures of now and of the last day."""
    gauges = await page.broadcast.gauges()
    viewer = page.viewer
    has_usage = page.services.thread is not None and viewer.sees_usage
    values = await page.read(_read, viewer) if has_usage else None
    return page.render("overview.html", gauges=gauges, usage=values)


def _read(database: Database, viewer: ConsoleViewer) -> dict[str, Any]:
    with database.read() as connection:
        now = database.now(connection).wall
        account = None if viewer.account_id is None else get_account(connection, viewer.account_id)
    key = None if viewer.key_id is None else get_key(database, viewer.key_id)
    this_hour = now // HOUR_MILLISECONDS
    own = RequestFilter(account_id=viewer.account_id)
    points = usage_over_time(database, UsageSpan(1, this_hour - _HOURS + 1, this_hour), own)
    latest = list_requests(database, own, limit=_LATEST).rows
    classes = add_classes(points)
    return {
        "latest": latest,
        "names": read_names(database, latest),
        "account": account,
        "key": key,
        "hours": _by_hour(points, this_hour),
        "requests": sum(point.requests for point in points),
        "errors": sum(point.errors for point in points),
        "tokens": sum(point.prompt_tokens + point.completion_tokens for point in points),
        "prompt_tokens": sum(point.prompt_tokens for point in points),
        "cached_tokens": sum(point.cached_tokens for point in points),
        "charge": sum(point.charge for point in points),
        "p50": percentile_ms(classes, 0.5),
        "p95": percentile_ms(classes, 0.95),
    }


def _by_hour(points: list[UsagePoint], last: int) -> dict[str, list[float]]:
    """Return the figures of each hour, with zeros for hours without requests."""
    found = {point.at // HOUR_MILLISECONDS: point for point in points}
    hours = [found.get(hour) for hour in range(last - _HOURS + 1, last + 1)]
    return {
        "requests": [0 if hour is None else hour.requests for hour in hours],
        "errors": [0 if hour is None else hour.errors for hour in hours],
        "tokens": [0 if hour is None else hour.prompt_tokens + hour.completion_tokens for hour in hours],
        "charge": [0 if hour is None else hour.charge for hour in hours],
        "p95": [0 if hour is None else percentile_ms(hour.first_tokens, 0.95) or 0 for hour in hours],
    }
