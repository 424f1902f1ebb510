"""The statements of the ledger's transactions."""

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Delete,
    Dialect,
    Table,
    TextClause,
    bindparam,
    cast,
    delete,
    exists,
    func,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy import update as update_of

from dragoman.accounts.database.statements import (
    Statement,
    compile_statement,
    compiled_once,
    in_list,
    insert,
    key_and_sums,
    update,
)
from dragoman.accounts.database.tables import (
    SIX_HOURLY_LAG_HOURS,
    accounts,
    daily_usage,
    holds,
    hourly_usage,
    key_accounts,
    keys,
    movements,
    prices,
    rate_buckets,
    usage,
)
from dragoman.accounts.ledger.combined_statements import CombinedStatements
from dragoman.accounts.ledger.rows import AccountRow, HoldRow, KeyRow, MovementRow, PriceRow, UsageRow
from dragoman.accounts.times import HOUR_MILLISECONDS

if TYPE_CHECKING:
    from sqlalchemy.dialects.postgresql import Insert as PostgresqlInsert
    from sqlalchemy.dialects.sqlite import Insert as SqliteInsert

_HOURLY_KEY, _HOURLY_SUMS = key_and_sums(hourly_usage)

_MOST_SIX_HOURS = 28
"""Of them that one transaction adds: a week, so that no settlement waits for long."""

_UNSUMMED = "hour >= (SELECT COALESCE(MAX(six_hours) + 1, 0) * 6 FROM six_hourly_usage)"


class LedgerStatements:
    """The statements, compiled for one kind of database. Either `tables` or `combined` is for its transactions."""

    def __init__(self, dialect: Dialect) -> None:
        self.usage_of = _rows_of(dialect, usage, UsageRow._fields, usage.c.request_id)
        self.holds_of = _rows_of(dialect, holds, HoldRow._fields, holds.c.request_id)
        self.add_six_hourly = compile_statement(six_hourly_sums(most=_MOST_SIX_HOURS), dialect, ("before",))
        self.buckets = _buckets(dialect)
        self.add_bucket = _upsert_sums(dialect, rate_buckets)
        self.correct_bucket = _correct_bucket(dialect)
        self.delete_buckets = compile_statement(_old_buckets(), dialect, ("key", "before"))
        is_sqlite = dialect.name == "sqlite"
        self.tables = TableStatements(dialect, self.holds_of) if is_sqlite else None
        """SQLite's: one for each table, since they cost their own work and little else."""
        self.combined = None if is_sqlite else CombinedStatements()
        """PostgreSQL's."""


class TableStatements:
    """The statements that read and write one table each."""

    def __init__(self, dialect: Dialect, holds_of: Statement) -> None:
        self.of_lists = ListStatements(
            holds_of=holds_of,
            keys_asking=_keys_asking(dialect),
            keys_of=_rows_of(dialect, keys, KeyRow._fields, keys.c.id),
            accounts_of=_rows_of(dialect, accounts, AccountRow._fields, accounts.c.id),
            used_request_ids=_used_request_ids(dialect),
            selectable_accounts=_selectable_accounts(dialect),
            prices_of=_current_prices(dialect),
            windows=_windows(dialect),
            remove_holds=_remove_holds(dialect),
        )
        self.of_single = ListStatements._make(each.for_single() for each in self.of_lists)
        """The same for lists of one member at most."""
        self.add_holds = insert(dialect, holds, HoldRow._fields)
        self.add_movements = insert(dialect, movements, MovementRow._fields)
        self.add_usage = insert(dialect, usage, UsageRow._fields)
        self.add_daily = _upsert_sums(dialect, daily_usage)
        self.add_hourly = _upsert_sums(dialect, hourly_usage)
        self.change_account = update(dialect, accounts, ("balance", "holds", "charges"))
        self.change_key = update(dialect, keys, ("spent", "held", "running"))


class ListStatements(NamedTuple):
    """The statements whose parameters are lists."""

    holds_of: Statement
    keys_asking: Statement
    keys_of: Statement
    accounts_of: Statement
    used_request_ids: Statement
    selectable_accounts: Statement
    prices_of: Statement
    windows: Statement
    remove_holds: Statement


ledger_statements = compiled_once(LedgerStatements)


def _rows_of(dialect: Dialect, table: Table, names: tuple[str, ...], column: Column[Any]) -> Statement:
    query = select(*(table.c[name] for name in names)).where(in_list(dialect, column, "listed"))
    return compile_statement(query, dialect, ("listed",))


def _keys_asking(dialect: Dialect) -> Statement:
    """Select the keys with these digests, each with its own account behind its columns."""
    columns = [*(keys.c[name] for name in KeyRow._fields), *(accounts.c[name] for name in AccountRow._fields)]
    query = select(*columns).join_from(keys, accounts, keys.c.account_id == accounts.c.id)
    return compile_statement(query.where(in_list(dialect, keys.c.digest, "digests")), dialect, ("digests",))


def _used_request_ids(dialect: Dialect) -> Statement:
    of_holds, of_usage = (
        select(table.c.request_id).where(in_list(dialect, table.c.request_id, table.name)) for table in (holds, usage)
    )
    return compile_statement(union_all(of_holds, of_usage), dialect, ("holds", "usage"))


def _selectable_accounts(dialect: Dialect) -> Statement:
    query = select(key_accounts.c.key_id, accounts.c.id, accounts.c.name)
    query = query.join_from(key_accounts, accounts, key_accounts.c.account_id == accounts.c.id)
    query = query.join(keys, key_accounts.c.key_id == keys.c.id)
    return compile_statement(query.where(in_list(dialect, keys.c.digest, "selecting")), dialect, ("selecting",))


def _current_prices(dialect: Dialect) -> Statement:
    later = prices.alias("later")
    superseded = exists().where(
        later.c.model == prices.c.model,
        later.c.valid_from <= bindparam("now"),
        tuple_(later.c.valid_from, later.c.id) > tuple_(prices.c.valid_from, prices.c.id),
    )
    query = select(*(prices.c[name] for name in PriceRow._fields)).where(
        in_list(dialect, prices.c.model, "models"), prices.c.valid_from <= bindparam("valid_at"), ~superseded
    )
    return compile_statement(query, dialect, ("models", "valid_at", "now"))


def _remove_holds(dialect: Dialect) -> Statement:
    return compile_statement(delete(holds).where(in_list(dialect, holds.c.request_id, "listed")), dialect, ("listed",))


def _windows(dialect: Dialect) -> Statement:
    column = rate_buckets.c
    query = select(
        column.key_id,
        func.min(column.second),
        func.max(column.second),
        # PostgreSQL's sums are of a wider type.
        cast(func.sum(column.requests), BigInteger),
        cast(func.sum(column.tokens), BigInteger),
    ).where(in_list(dialect, column.key_id, "listed"), column.second >= bindparam("since"))
    return compile_statement(query.group_by(column.key_id), dialect, ("listed", "since"))


def _buckets(dialect: Dialect) -> Statement:
    column = rate_buckets.c
    query = select(column.second, column.requests, column.tokens)
    query = query.where(column.key_id == bindparam("key"), column.second >= bindparam("since"))
    return compile_statement(query.order_by(column.second), dialect, ("key", "since"))


def _correct_bucket(dialect: Dialect) -> Statement:
    column = rate_buckets.c
    statement = (
        update_of(rate_buckets)
        .values(tokens=column.tokens + bindparam("more"))
        .where(column.key_id == bindparam("key"), column.second == bindparam("counted"))
    )
    return compile_statement(statement, dialect, ("more", "key", "counted"))


def _old_buckets() -> Delete:
    column = rate_buckets.c
    return delete(rate_buckets).where(column.key_id == bindparam("key"), column.second < bindparam("before"))


def _upsert_sums(dialect: Dialect, table: Table) -> Statement:
    """Insert a row, or add its sums to the row with the same key."""
    key, sums = key_and_sums(table)
    statement = _insert_or_update(dialect, table)
    statement = statement.on_conflict_do_update(
        index_elements=list(key), set_={name: table.c[name] + statement.excluded[name] for name in sums}
    )
    return compile_statement(statement, dialect, (*key, *sums), (*key, *sums))


def _insert_or_update(dialect: Dialect, table: Table) -> "PostgresqlInsert | SqliteInsert":
    """Return the dialect's own insertion. A process imports only the dialect of its database."""
    if dialect.name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)


def summed_before(wall: int) -> int:
    """Return the hour before which all hours may be summed by six at a time, in hours since 1970.

    `wall`: the time in milliseconds since 1970.
    """
    return (wall // HOUR_MILLISECONDS - SIX_HOURLY_LAG_HOURS) // 6 * 6


def six_hourly_sums(*, most: int | None = None) -> TextClause:
    """Return the statement that sums the hours behind the last row of `six_hourly_usage` and before the hour `before`.

    `most`: so many times six hours, from the first with requests on. None: all.
    """
    bound = (
        "" if most is None else f"AND hour < (SELECT MIN(hour) / 6 + {most} FROM hourly_usage WHERE {_UNSUMMED}) * 6"
    )
    others, sums = ", ".join(_HOURLY_KEY[1:]), ", ".join(f"CAST(SUM({name}) AS BIGINT)" for name in _HOURLY_SUMS)
    # In sorted order, so that no two transactions wait for each other.
    return text(
        f"INSERT INTO six_hourly_usage (six_hours, {others}, {', '.join(_HOURLY_SUMS)}) "
        f"SELECT hour / 6, {others}, {sums} FROM hourly_usage WHERE {_UNSUMMED} AND hour < :before {bound} "
        f"GROUP BY hour / 6, {others} ORDER BY hour / 6, {others} ON CONFLICT DO NOTHING"
    )
