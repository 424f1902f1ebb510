"""The movements of one request: its hold, and its charge or release."""

from typing import Any

import msgspec
from sqlalchemy import Row, select, text

from dragoman.accounts.administration.usage import UsageRecord
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import movements

SLACK_MILLISECONDS = 2_000
"""Movements have growing ids and times, but transactions at the same time may take them in another order."""

_IS_BEFORE = "(SELECT at FROM movements WHERE id >= (low + high) / 2 ORDER BY id LIMIT 1) < :since"

_FIRST_SINCE = text(
    f"""
    WITH RECURSIVE bisection(low, high) AS (
        SELECT CAST(0 AS BIGINT), (SELECT COALESCE(MAX(id), 0) + 1 FROM movements)
        UNION ALL
        SELECT CASE WHEN {_IS_BEFORE} THEN (low + high) / 2 + 1 ELSE low END,
               CASE WHEN {_IS_BEFORE} THEN high ELSE (low + high) / 2 END
        FROM bisection WHERE low < high
    )
    SELECT MAX(low) FROM bisection
    """
)
"""The smallest id whose movement is not before a time. There is no index by time or request: it would slow down every
admission and settlement for the sake of one page."""


class Movement(msgspec.Struct, frozen=True, kw_only=True):
    """A change of an account's totals, in nano-units."""

    id: int
    at: int
    kind: str
    balance: int
    holds: int
    charges: int


def movements_of(database: Database, request: UsageRecord) -> list[Movement]:
    """Return the movements of a settled request, oldest first. A request that nobody pays for has none."""
    if request.account_id is None:
        return []
    column = movements.c
    found: list[Row[Any]] = []
    with database.read() as connection:
        for at in (request.admitted_at, request.settled_at):
            first, behind = (
                connection.execute(_FIRST_SINCE, {"since": moment}).scalar_one()
                for moment in (at - SLACK_MILLISECONDS, at + SLACK_MILLISECONDS)
            )
            query = select(*(column[name] for name in Movement.__struct_fields__)).where(
                column.id >= first, column.id < behind, column.request_id == request.request_id
            )
            found += connection.execute(query.order_by(column.id)).all()
    distinct = {row.id: row for row in found}
    return [msgspec.convert(distinct[number], Movement, from_attributes=True) for number in sorted(distinct)]
