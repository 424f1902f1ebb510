"""Amounts, times and days as they are typed, and as they are shown."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import TypeVar

from dragoman.cli.database import USAGE_ERROR, stop

Value = TypeVar("Value")


def amount(text: str) -> int:
    """Nano-units of an amount typed in units."""
    from dragoman.accounts.money import parse_amount

    return _read(parse_amount, text)


def price(text: str) -> int:
    """Nano-units a token of a price typed in units for a million."""
    from dragoman.accounts.money import parse_price_per_million

    return _read(parse_price_per_million, text)


def time(text: str) -> int:
    """Milliseconds since 1970 of a date or a time, of UTC unless it has an offset."""
    from dragoman.accounts.times import to_milliseconds

    at = _read(datetime.fromisoformat, text)
    return to_milliseconds(at if at.tzinfo else at.replace(tzinfo=UTC))


def day(text: str) -> int:
    """Days since 1970 of a date."""
    from dragoman.accounts.times import to_day_number

    return to_day_number(_read(date.fromisoformat, text))


def shown_time(milliseconds: int | None) -> str:
    """A time in seconds, of UTC; empty for none."""
    from dragoman.accounts.times import to_datetime

    return "" if milliseconds is None else f"{to_datetime(milliseconds):%Y-%m-%d %H:%M:%S}"


def shown(value: object) -> str:
    """Whatever it is; empty for None, lists with commas."""
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _read(read: Callable[[str], Value], text: str) -> Value:
    try:
        return read(text)
    except ValueError as error:
        raise stop(str(error), USAGE_ERROR) from error
