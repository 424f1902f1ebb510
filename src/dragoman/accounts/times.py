"""Times and days: conversion between the database's integers and Python's types."""

from datetime import UTC, date, datetime, timedelta

HOUR_MILLISECONDS = 3_600_000
DAY_MILLISECONDS = 24 * HOUR_MILLISECONDS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_datetime(milliseconds: int) -> datetime:
    """Convert milliseconds since 1970 (UTC)."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def to_milliseconds(at: datetime) -> int:
    """Convert a time with an offset to milliseconds since 1970. Raises ValueError for one that no day in UTC has."""
    try:
        return (at.astimezone(UTC) - _EPOCH) // timedelta(milliseconds=1)
    except OverflowError:
        raise ValueError(f"{at.isoformat()} is not within the years 1 to 9999 in UTC") from None


def to_day_number(day: date) -> int:
    """Convert a day to days since 1970."""
    return day.toordinal() - _EPOCH.toordinal()


def from_day_number(number: int) -> date:
    """Convert days since 1970 to a day."""
    return date.fromordinal(_EPOCH.toordinal() + number)
