"""Amounts, times and days as they are typed, and as they are shown."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import TypeVar

from dragoman.cli.database import USAGE_ERROR, error_exit

Value = TypeVar("Value")


def read_amount(text: str) -> int:
    """Nano-units of an amount typed in units."""
    from dragoman.core.money import parse_amount

    return _parse_or_exit(parse_amount, text)


def read_price(text: str) -> int:
    """Nano-units a token of a price typed in units for a million."""
    from dragoman.core.money import parse_price_per_million

    return _parse_or_exit(parse_price_per_million, text)


def read_time(text: str) -> int:
    """Milliseconds since 1970 of a date or a time, of UTC unless it has an offset."""
    from dragoman.accounts.times import to_milliseconds

    at = _parse_or_exit(datetime.fromisoformat, text)
    return to_milliseconds(at if at.tzinfo else at.replace(tzinfo=UTC))


def read_day(text: str) -> int:
    """Days since 1970 of a date."""
    from dragoman.accounts.times import to_day_number

    return to_day_number(_parse_or_exit(date.fromisoformat, text))


def format_time(milliseconds: int | None) -> str:
    """A time in seconds, of UTC; empty for none."""
    from dragoman.accounts.times import to_datetime

    return "" if milliseconds is None else f"{to_datetime(milliseconds):%Y-%m-%d %H:%M:%S}"


def format_value(value: object) -> str:
    """Whatever it is; empty for None, lists with commas."""
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _parse_or_exit(parse: Callable[[str], Value], text: str) -> Value:
    try:
        return parse(text)
    except ValueError as error:
        raise error_exit(str(error), USAGE_ERROR) from error
