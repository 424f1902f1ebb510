"""The sums of usage over time, computed anew from the settled requests."""

from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, select
from sqlalchemy.sql.expression import literal_column

from dragoman.accounts.administration.usage_reports import IS_ERROR
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.tables import (
    FIRST_TOKEN_BOUNDS_MS,
    FIRST_TOKEN_CLASSES,
    daily_usage,
    hourly_usage,
    six_hourly_usage,
    usage,
)
from dragoman.accounts.ledger.ledger_statements import six_hourly_sums, summed_before
from dragoman.accounts.times import DAY_MILLISECONDS, HOUR_MILLISECONDS


def rebuild_usage_sums(database: Database) -> int:
    """Compute the sums by hour, six hours and day anew from the settled requests. Return the number of hours' rows.

    Settlements wait meanwhile; SQLite's refuse requests if it takes longer than they may wait.
    """
    with database.write() as connection:
        if not database.is_sqlite:
            connection.exec_driver_sql("LOCK TABLE daily_usage, hourly_usage, six_hourly_usage IN EXCLUSIVE MODE")
        for table, unit in ((daily_usage, DAY_MILLISECONDS), (hourly_usage, HOUR_MILLISECONDS)):
            connection.execute(delete(table))
            key = {column.name: _key_value(column.name, unit) for column in table.primary_key}
            sums = {column.name: _sum_value(column.name) for column in table.c if column.name not in key}
            values = {**key, **sums}
            connection.execute(
                insert(table).from_select(
                    list(values),
                    select(*(value.label(name) for name, value in values.items())).group_by(*key.values()),
                )
            )
        connection.execute(delete(six_hourly_usage))
        connection.execute(six_hourly_sums(), {"before": summed_before(database.now(connection).wall)})
        return int(connection.execute(select(func.count()).select_from(hourly_usage)).scalar_one())


def _key_value(name: str, unit: int) -> ColumnElement[Any]:
    if name in ("hour", "day"):
        return literal_column(f"usage.settled_at / {unit}")
    return func.coalesce(usage.c[name], literal_column("0")) if name in ("account_id", "key_id") else usage.c[name]


def _sum_value(name: str) -> ColumnElement[Any]:
    if name == "requests":
        return func.count()
    if name == "errors":
        return _count_where(IS_ERROR)
    if name in FIRST_TOKEN_CLASSES:
        number = FIRST_TOKEN_CLASSES.index(name)
        lower = f"first_token_ms > {FIRST_TOKEN_BOUNDS_MS[number - 1]}" if number else "first_token_ms IS NOT NULL"
        upper = f" AND first_token_ms <= {FIRST_TOKEN_BOUNDS_MS[number]}" if name != FIRST_TOKEN_CLASSES[-1] else ""
        return _count_where(lower + upper)
    return func.sum(usage.c[name])


def _count_where(condition: str) -> ColumnElement[Any]:
    return literal_column(f"SUM(CASE WHEN {condition} THEN 1 ELSE 0 END)")
