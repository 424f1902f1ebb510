"""Parsing and formatting of amounts, times and days."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import TypeVar

from dragoman.cli.database_access import USAGE_ERROR, error_exit

Value = TypeVar("Value")

_CONTROL_CHARACTERS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
"""With these, a client whose texts are shown could change what the terminal shows of others, or its title."""

MAX_NUMBER = 2**63 - 1
"""Of an account, a key or a job, and of rows: what databases hold."""


def read_amount(text: str) -> int:
    """Parse an amount in units. Return nano-units."""
    from dragoman.core.money import parse_amount

    return _parse_or_exit(parse_amount, text)


def read_price(text: str) -> int:
    """Parse a price in units for a million tokens. Return nano-units for one."""
    from dragoman.core.money import parse_price_per_million

    return _parse_or_exit(parse_price_per_million, text)


def read_time(text: str) -> int:
    """Parse a date or time, in UTC unless it has an offset. Return milliseconds since 1970."""
    from dragoman.accounts.times import to_milliseconds

    def parse(text: str) -> int:
        at = _parse_iso(datetime.fromisoformat, text, "date or time; write it as in 2026-01-31 or 2026-01-31T12:00")
        return to_milliseconds(at if at.tzinfo else at.replace(tzinfo=UTC))

    return _parse_or_exit(parse, text)


def read_day(text: str) -> int:
    """Parse a date. Return days since 1970."""
    from dragoman.accounts.times import to_day_number

    def parse(text: str) -> date:
        return _parse_iso(date.fromisoformat, text, "date; write it as in 2026-01-31")

    return to_day_number(_parse_or_exit(parse, text))


def format_time(milliseconds: int | None) -> str:
    """Format a time to the second, in UTC. Return "" for None."""
    from dragoman.accounts.times import to_datetime

    return "" if milliseconds is None else f"{to_datetime(milliseconds):%Y-%m-%d %H:%M:%S}"


def format_value(value: object) -> str:
    """Format a value for one line of a terminal. Return "" for None, and the values of a tuple with commas."""
    if value is None:
        return ""
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text.translate(_CONTROL_CHARACTERS)


def _parse_iso(parse: Callable[[str], Value], text: str, kind: str) -> Value:
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no {kind}") from error


def _parse_or_exit(parse: Callable[[str], Value], text: str) -> Value:
    try:
        return parse(text)
    except ValueError as error:
        raise error_exit(str(error), USAGE_ERROR) from error
