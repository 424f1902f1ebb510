"""SQLAlchemy Core statements compiled once, for one kind of database, to be run on its driver's cursor."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ARRAY, ColumnElement, Dialect, String, Table, any_, bindparam, cast, func, select
from sqlalchemy import insert as insert_into
from sqlalchemy import update as update_of
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ClauseElement


class Statement(NamedTuple):
    """SQL text with positional parameters."""

    sql: str
    parameters: tuple[str, ...]
    """What is expected at each position."""


def compiled(
    statement: ClauseElement, dialect: Dialect, parameters: Sequence[str], columns: Sequence[str] | None = None
) -> Statement:
    """The statement's SQL, with the parameters in the order given; `columns` are those that an INSERT or UPDATE sets.

    Raises ValueError when the order is another one.
    """
    done = statement.compile(dialect=dialect, column_keys=None if columns is None else list(columns))
    assert isinstance(done, SQLCompiler)
    if tuple(done.positiontup or ()) != tuple(parameters):
        raise ValueError(f"{done.string} takes {done.positiontup}, not {parameters}")
    return Statement(done.string, tuple(parameters))


def one_of(dialect: Dialect, column: ColumnElement[int] | ColumnElement[str], name: str) -> ColumnElement[bool]:
    """Whether the column is one of a list, which is one parameter however long it is (Session.values)."""
    if dialect.name == "sqlite":
        members = func.json_each(bindparam(name, type_=String)).table_valued("value")
        return column.in_(select(members.c.value))
    return column == any_(cast(bindparam(name), ARRAY(column.type)))


def insert(dialect: Dialect, table: Table, columns: Sequence[str]) -> Statement:
    """Add a row; the parameters are the columns, in the order of the table."""
    return compiled(insert_into(table), dialect, columns, columns)


def update(dialect: Dialect, table: Table, columns: Sequence[str]) -> Statement:
    """Set columns of the row with an id; the parameters are the columns, in the order of the table, then the id."""
    statement = update_of(table).where(table.c.id == bindparam("row_id"))
    return compiled(statement, dialect, (*columns, "row_id"), columns)
