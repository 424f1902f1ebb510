"""Check the accounts: compare everything that is stored twice. Safe to run at any time, also on a running server."""

from typing import Any

import msgspec
from sqlalchemy import Column, Connection, Select, func, select

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import (
    accounts,
    daily_usage,
    holds,
    hourly_usage,
    keys,
    movements,
    six_hourly_usage,
    usage,
)
from dragoman.accounts.identifiers import QUEUE_PROCESS_ID

_RUNNING = holds.c.process_id != QUEUE_PROCESS_ID


class Discrepancy(msgspec.Struct, frozen=True):
    """Two figures that should be equal and are not."""

    invariant: str
    id: int
    """Of the account or key."""
    stored: int
    computed: int


def find_discrepancies(database: Database) -> list[Discrepancy]:
    """Find figures that do not balance. There are none unless the tables were edited by hand. Reads every row."""
    with database.snapshot() as connection:
        return [*_check_accounts(connection), *_check_keys(connection)]


def _check_accounts(connection: Connection) -> list[Discrepancy]:
    column = accounts.c
    found = [
        Discrepancy("deposits = balance + holds + charges", row.id, row.deposits, row.balance + row.holds + row.charges)
        for row in connection.execute(select(accounts))
    ]
    for name in ("deposits", "balance", "holds", "charges"):
        total = _sum_by(movements.c.account_id, movements.c[name])
        found += _compare(connection, f"{name} by movements", column[name], total)
    held = _sum_by(holds.c.account_id, holds.c.amount)
    found += _compare(connection, "holds by running requests", column.holds, held)
    charged = _sum_by(usage.c.account_id, usage.c.charge)
    found += _compare(connection, "charges by usage", column.charges, charged)
    charged_by_day = _sum_by(daily_usage.c.account_id, daily_usage.c.charge)
    found += _compare(connection, "charges by day", column.charges, charged_by_day)
    charged_by_hour = _sum_by(hourly_usage.c.account_id, hourly_usage.c.charge)
    found += _compare(connection, "charges by hour", column.charges, charged_by_hour)
    return [each for each in [*found, *_check_six_hours(connection)] if each.stored != each.computed]


def _check_six_hours(connection: Connection) -> list[Discrepancy]:
    """Compare the sums by six hours with those of the hours that they cover."""
    last = select(func.coalesce(func.max(six_hourly_usage.c.six_hours), -1)).scalar_subquery()
    covered = _sum_by(hourly_usage.c.account_id, hourly_usage.c.charge).where(hourly_usage.c.hour < (last + 1) * 6)
    stored, computed = (
        {owner: int(total) for owner, total in connection.execute(query)}
        for query in (_sum_by(six_hourly_usage.c.account_id, six_hourly_usage.c.charge), covered)
    )
    owners = stored.keys() | computed.keys()
    return [
        Discrepancy("charges by six hours", owner, stored.get(owner, 0), computed.get(owner, 0)) for owner in owners
    ]


def _check_keys(connection: Connection) -> list[Discrepancy]:
    column = keys.c
    running = select(holds.c.key_id, func.count()).where(_RUNNING).group_by(holds.c.key_id)
    found = [
        *_compare(connection, "key's holds", column.held, _sum_by(holds.c.key_id, holds.c.amount)),
        *_compare(connection, "key's running requests", column.running, running),
        *_compare(connection, "key's spending", column.spent, _sum_by(usage.c.key_id, usage.c.charge)),
    ]
    return [each for each in found if each.stored != each.computed]


def _sum_by(owner: Column[int], amount: Column[int]) -> Select[Any]:
    return select(owner, func.sum(amount)).group_by(owner)


def _compare(connection: Connection, invariant: str, stored: Column[int], totals: Select[Any]) -> list[Discrepancy]:
    """Pair the stored value of each row with its total; `totals` selects owner ids and totals."""
    computed = {owner: int(total) for owner, total in connection.execute(totals)}
    rows = connection.execute(select(stored.table.c.id, stored))
    return [Discrepancy(invariant, row[0], row[1], computed.get(row[0], 0)) for row in rows]
