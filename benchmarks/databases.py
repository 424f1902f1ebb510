"""New databases of every kind, and SQL to fill them with many rows."""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator

from dragoman.accounts.database.connections import Database
from tests.support.postgresql import new_database, running_postgresql

KINDS = ("sqlite", "postgresql")

_NUMBERS = {
    "sqlite": "(WITH RECURSIVE n(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM n WHERE number < {rows}) "
    "SELECT number FROM n)",
    "postgresql": "generate_series(1, {rows}) AS number",
}
_CHECKPOINT = {"sqlite": "PRAGMA wal_checkpoint(TRUNCATE)", "postgresql": "VACUUM ANALYZE"}


@contextlib.contextmanager
def new_databases(kind: str, count: int, *, durable: bool = False) -> Iterator[list[str]]:
    """Create empty databases for the block and yield their URLs; unless `durable`, PostgreSQL runs without fsync."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield [f"sqlite:///{folder}/{number}.db" for number in range(count)]
    else:
        with running_postgresql(durable=durable) as server:
            yield [new_database(server) for _ in range(count)]


def kind_of(database: Database) -> str:
    """Return one of KINDS."""
    return "sqlite" if database.is_sqlite else "postgresql"


def numbers(kind: str, rows: int) -> str:
    """Return a FROM clause with a row for each `number` from 1 to `rows`."""
    return _NUMBERS[kind].format(rows=rows)


def checkpoint(database: Database) -> None:
    """Finish all pending writes of the database and the disk before the measurement."""
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(_CHECKPOINT[kind_of(database)])
    os.sync()


def add_databases_option(parser: argparse.ArgumentParser) -> None:
    """Add the option `--databases`, a comma-separated list of KINDS."""
    parser.add_argument("--databases", type=_kinds, default=",".join(KINDS), help="default: %(default)s")


def _kinds(given: str) -> list[str]:
    kinds = given.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise argparse.ArgumentTypeError(f"unknown database {unknown[0]}; there are {', '.join(KINDS)}")
    return kinds
