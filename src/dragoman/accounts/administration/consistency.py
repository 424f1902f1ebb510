"""Do the books balance? Everything that is stored twice is compared; to be run at any time, on a running server too."""

from typing import Any

import msgspec
from sqlalchemy import Column, ColumnElement, Connection, Table, func, select, true

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import accounts, daily_usage, holds, keys, movements, usage
from dragoman.accounts.identifiers import QUEUE_PROCESS_ID

_ALL = true()
_RUNNING = holds.c.process_id != QUEUE_PROCESS_ID


class Discrepancy(msgspec.Struct, frozen=True):
    """Two figures that should be equal are not."""

    invariant: str
    id: int
    """Of the account or key."""
    stored: int
    computed: int


def find_discrepancies(database: Database) -> list[Discrepancy]:
    """What does not balance; nothing, unless somebody changed the tables by hand. Reads every row there is."""
    with database.snapshot() as connection:
        return [*_check_accounts(connection), *_check_keys(connection)]


def _check_accounts(connection: Connection) -> list[Discrepancy]:
    column = accounts.c
    found = [
        Discrepancy("deposits = balance + holds + charges", row.id, row.deposits, row.balance + row.holds + row.charges)
        for row in connection.execute(select(accounts))
    ]
    for name in ("deposits", "balance", "holds", "charges"):
        found += _compare_sums(
            connection, f"{name} by movements", column[name], movements, "account_id", movements.c[name]
        )
    found += _compare_sums(connection, "holds by running requests", column.holds, holds, "account_id", holds.c.amount)
    found += _compare_sums(connection, "charges by usage", column.charges, usage, "account_id", usage.c.charge)
    found += _compare_sums(
        connection, "charges by day", column.charges, daily_usage, "account_id", daily_usage.c.charge
    )
    return [each for each in found if each.stored != each.computed]


def _check_keys(connection: Connection) -> list[Discrepancy]:
    column = keys.c
    found = [
        *_compare_sums(connection, "key's holds", column.held, holds, "key_id", holds.c.amount),
        *_compare_sums(connection, "key's running requests", column.running, holds, "key_id", None, _RUNNING),
        *_compare_sums(connection, "key's spending", column.spent, usage, "key_id", usage.c.charge),
    ]
    return [each for each in found if each.stored != each.computed]


def _compare_sums(
    connection: Connection,
    invariant: str,
    stored: Column[int],
    table: Table,
    owner: str,
    sum_column: Column[int] | None,
    condition: ColumnElement[bool] = _ALL,
) -> list[Discrepancy]:
    """For each row that `stored` is a column of: its value, and the sum (None: the number) of the owner's rows."""
    aggregate: Any = func.count() if sum_column is None else func.sum(sum_column)
    query = select(table.c[owner], aggregate).where(condition).group_by(table.c[owner])
    sums = {row[0]: int(row[1]) for row in connection.execute(query)}
    rows = connection.execute(select(stored.table.c.id, stored))
    return [Discrepancy(invariant, row[0], row[1], sums.get(row[0], 0)) for row in rows]
