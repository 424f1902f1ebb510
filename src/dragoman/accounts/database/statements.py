"""SQLAlchemy Core statements, compiled once for one kind of database and run on the driver's cursor."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Dialect,
    String,
    Table,
    all_,
    any_,
    bindparam,
    cast,
    text,
)
from sqlalchemy import insert as insert_into
from sqlalchemy import update as update_of
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ClauseElement

Compiled = TypeVar("Compiled")

_MEMBERS = "SELECT value FROM json_each({})"


class Statement(NamedTuple):
    """SQL text with positional parameters."""

    sql: str
    parameters: tuple[str, ...]
    """The name of the parameter at each position."""

    def for_single(self) -> "Statement":
        """Return the statement for SQLite that takes the only member of each list, or NULL for an empty list.

        A table of one row that is parsed from JSON costs three times as much as the comparison.
        """
        return self._replace(sql=self.sql.replace(f"IN ({_MEMBERS.format('?')})", "= ?"))


def compile_statement(
    statement: ClauseElement, dialect: Dialect, parameters: Sequence[str], columns: Sequence[str] | None = None
) -> Statement:
    """Compile a statement whose parameters are in the given order. `columns` are those that an INSERT or UPDATE sets.

    Raises ValueError if the order differs.
    """
    compiler = statement.compile(dialect=dialect, column_keys=None if columns is None else list(columns))
    assert isinstance(compiler, SQLCompiler)
    if tuple(compiler.positiontup or ()) != tuple(parameters):
        raise ValueError(f"{compiler.string} takes {compiler.positiontup}, not {parameters}")
    return Statement(compiler.string, tuple(parameters))


def compiled_once(compile_all: Callable[[Dialect], Compiled]) -> Callable[[Dialect], Compiled]:
    """Keep what is compiled for each kind of database: a process needs it in several places, and it takes 10 ms."""
    compiled: dict[str, Compiled] = {}

    def statements(dialect: Dialect) -> Compiled:
        if dialect.name not in compiled:
            compiled[dialect.name] = compile_all(dialect)
        return compiled[dialect.name]

    return statements


def in_list(dialect: Dialect, column: ColumnElement[int] | ColumnElement[str], name: str) -> ColumnElement[bool]:
    """Whether the column is in a list of any length that is passed as one parameter (Session.list_parameter)."""
    if dialect.name == "sqlite":
        members = text(_MEMBERS.format(f":{name}")).bindparams(bindparam(name, type_=String))
        return column.in_(members.columns(value=column.type))
    return column == any_(cast(bindparam(name), ARRAY(column.type)))


def not_in_list(dialect: Dialect, column: ColumnElement[int], name: str) -> ColumnElement[bool]:
    """Whether the column is in no list that is passed as one parameter (Session.list_parameter)."""
    if dialect.name == "sqlite":
        return ~in_list(dialect, column, name)
    return column != all_(cast(bindparam(name), ARRAY(column.type)))


def key_and_sums(table: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns of the key of a table of sums, and the sums, in the order in which a row has them."""
    key = tuple(column.name for column in table.primary_key)
    return key, tuple(column.name for column in table.columns if column.name not in key)


def insert(dialect: Dialect, table: Table, columns: Sequence[str]) -> Statement:
    """Insert a row; the parameters are the columns, in the order of the table."""
    return compile_statement(insert_into(table), dialect, columns, columns)


def update(dialect: Dialect, table: Table, columns: Sequence[str]) -> Statement:
    """Set columns of the row with an id; the parameters are the columns, in the order of the table, then the id."""
    statement = update_of(table).where(table.c.id == bindparam("row_id"))
    return compile_statement(statement, dialect, (*columns, "row_id"), columns)
