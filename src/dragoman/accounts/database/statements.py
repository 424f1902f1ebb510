"""SQLAlchemy Core statements, compiled once for one kind of database and run on the driver's cursor."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from sqlalchemy import (
    ARRAY,
    JSON,
    ColumnElement,
    Dialect,
    SelectBase,
    String,
    Table,
    any_,
    bindparam,
    cast,
    func,
    literal_column,
    select,
)
from sqlalchemy import insert as insert_into
from sqlalchemy import update as update_of
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ClauseElement

Compiled = TypeVar("Compiled")


class Statement(NamedTuple):
    """SQL text with positional parameters."""

    sql: str
    parameters: tuple[str, ...]
    """The name of the parameter at each position."""


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
        members = func.json_each(bindparam(name, type_=String)).table_valued("value")
        return column.in_(select(members.c.value))
    return column == any_(cast(bindparam(name), ARRAY(column.type)))


def in_subquery(dialect: Dialect, column: ColumnElement[int], query: SelectBase) -> ColumnElement[bool]:
    """Whether the column is in a query's result. On PostgreSQL the query runs once and the column's index is used."""
    if dialect.name == "sqlite":
        return column.in_(query)
    return column == any_(func.array(query.scalar_subquery(), type_=ARRAY(column.type)))


def insert_many(dialect: Dialect, table: Table, columns: Sequence[str]) -> Statement:
    """Insert rows, see Session.add; the columns are in the order of the table.

    PostgreSQL gets all rows as JSON in one parameter, since `executemany` would send a message for each row. On SQLite
    `executemany` is faster.
    """
    if dialect.name == "sqlite":
        return insert(dialect, table, columns)
    entry = func.json_array_elements(cast(bindparam("rows"), JSON)).column_valued("entry")
    values = [cast(entry.op("->>")(literal_column(str(at))), table.c[name].type) for at, name in enumerate(columns)]
    return compile_statement(insert_into(table).from_select(list(columns), select(*values)), dialect, ("rows",))


def insert(dialect: Dialect, table: Table, columns: Sequence[str]) -> Statement:
    """Insert a row; the parameters are the columns, in the order of the table."""
    return compile_statement(insert_into(table), dialect, columns, columns)


def update(dialect: Dialect, table: Table, columns: Sequence[str]) -> Statement:
    """Set columns of the row with an id; the parameters are the columns, in the order of the table, then the id."""
    statement = update_of(table).where(table.c.id == bindparam("row_id"))
    return compile_statement(statement, dialect, (*columns, "row_id"), columns)
