"""Converts balance and usage to this dialect's shapes."""

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from decimal import Decimal

import msgspec

from dragoman.core.usage import DailyTotals, UsageRange, UsageSummary
from dragoman.dialects.http.query import InvalidQuery
from dragoman.dialects.http.validation import InvalidValue, Violation
from dragoman.dialects.vendors.arcee import wire

SOURCE = "api"
"""All usage is the API's, as there is no app."""

PROVIDER = "dragoman"
"""The provider of every model."""

_EPOCH = date(1970, 1, 1)

_encode: Callable[[object], bytes] = msgspec.json.Encoder(decimal_format="number").encode


def credits_body(balance: int) -> bytes:
    """Return a balance in nano-units as wire.CreditsBody."""
    return _encode({"credit_balance": Decimal(balance) / 10**9})


def usage_span(query: wire.SummaryQuery, model: str | None = None) -> UsageRange:
    """Return the range that the query asks for. Raises InvalidQuery."""
    return UsageRange(_day("start_date", query.start_date), _day("end_date", query.end_date), model)


def matches_this_server(query: wire.StatsQuery) -> bool:
    """Whether there can be usage from the query's source and provider."""
    return query.source in (None, SOURCE) and query.model_provider in (None, PROVIDER)


def stats_body(days: Iterable[DailyTotals]) -> bytes:
    """Return a row for each day, key and model."""
    return _encode([_row(day) for day in days])


def summary_body(summary: UsageSummary, span: UsageRange) -> bytes:
    """Return all sums. A range without an end that was asked for begins or ends with the first or last usage."""
    first = summary.first_day if span.first_day is None else span.first_day
    last = summary.last_day if span.last_day is None else span.last_day
    return _encode(
        wire.SummaryBody(
            total_input_tokens=summary.prompt_tokens,
            total_output_tokens=summary.completion_tokens,
            total_tokens=summary.prompt_tokens + summary.completion_tokens,
            total_requests=summary.requests,
            unique_users=summary.keys,
            unique_models=summary.models,
            unique_providers=min(1, summary.models),
            api_usage=summary.requests,
            date_range_days=0 if first is None or last is None else max(0, last - first + 1),
        )
    )


def _row(day: DailyTotals) -> wire.StatsRow:
    on = date.fromordinal(_EPOCH.toordinal() + day.day).isoformat()
    return wire.StatsRow(
        id=f"{day.account_id}-{day.key_id}-{on}-{day.model}",
        user_id=str(day.key_id),
        org_id=str(day.account_id),
        model=day.model,
        source=SOURCE,
        input_tokens=day.prompt_tokens,
        output_tokens=day.completion_tokens,
        total_tokens=day.prompt_tokens + day.completion_tokens,
        total_requests=day.requests,
        date=on,
        created_at=f"{on}T00:00:00Z",
    )


def _day(field: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        on = at.astimezone(UTC).date() if at.tzinfo else at.date()
    except (ValueError, OverflowError):
        raise InvalidQuery([Violation((field,), InvalidValue("Input should be an ISO 8601 date"))]) from None
    return on.toordinal() - _EPOCH.toordinal()
