"""Times and days as the database has them, and as people do."""

from datetime import UTC, date, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_datetime(milliseconds: int) -> datetime:
    """A time, given as milliseconds since 1970 (UTC)."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def to_milliseconds(at: datetime) -> int:
    """Milliseconds since 1970 of a time that has an offset."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


def to_day_number(day: date) -> int:
    """Days since 1970."""
    return day.toordinal() - _EPOCH.toordinal()


def from_day_number(number: int) -> date:
    """The day, given as days since 1970."""
    return date.fromordinal(_EPOCH.toordinal() + number)
