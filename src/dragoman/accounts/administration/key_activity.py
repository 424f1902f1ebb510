"""When keys were used last, and what they have spent in this month, from the sums by day."""

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from sqlalchemy import BigInteger, case, cast, func, select

from dragoman.accounts.administration.keys import Key
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import daily_usage
from dragoman.accounts.times import to_datetime, to_day_number


class KeyActivity(msgspec.Struct, frozen=True, kw_only=True):
    """What a key was used for."""

    last_day: int
    """Of its newest settled request, in days since 1970 (UTC)."""
    spent_this_month: int
    """In nano-units, since the first of the month (UTC)."""


def read_activity(database: Database, keys: Sequence[Key]) -> dict[int, KeyActivity]:
    """Return the activity of these keys by their numbers. Keys that were never used are left out."""
    if not keys:
        return {}
    column = daily_usage.c
    with database.read() as connection:
        today: datetime = to_datetime(database.now(connection).wall)
        first = to_day_number(datetime(today.year, today.month, 1, tzinfo=UTC).date())
        spent = func.sum(case((column.day >= first, column.charge), else_=0))
        query = select(column.key_id, func.max(column.day), cast(spent, BigInteger)).where(
            # With the accounts, the primary key finds the rows.
            column.account_id.in_({account for key in keys for account in key.account_ids}),
            column.key_id.in_([key.id for key in keys]),
        )
        rows = connection.execute(query.group_by(column.key_id)).all()
    return {number: KeyActivity(last_day=last, spent_this_month=month) for number, last, month in rows}
