"""The console's pages over millions of requests: the time a page takes in the server, and its queries.

    .venv/bin/python -m benchmarks.console

Each page is requested from the app in this process, as an operator or as the holder of a key, after one request that is
not counted. The time is from the request to the last byte, so it includes signing in, rendering and every query.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
from sqlalchemy import event

from benchmarks.databases import add_databases_option, checkpoint, kind_of, new_databases, numbers
from benchmarks.harness.figures import milliseconds, percentile, table, write_json
from dragoman.accounts.administration.accounts import create_account, deposit
from dragoman.accounts.administration.keys import create_key
from dragoman.accounts.administration.prices import set_price
from dragoman.accounts.administration.usage_rebuild import rebuild_usage_sums
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from tests.support.accounting import ADMIN_KEY
from tests.support.console import another_client, console_app, console_client

ROWS = 5_000_000
ACCOUNTS, KEYS = 20, 60
DAYS = 90
BAR_SECONDS = 0.05
"""Time that a page may take, median."""

_MODELS = ("echo", "coder", "small")

_HEX = {"sqlite": "printf('%032x', number)", "postgresql": "lpad(to_hex(number), 32, '0')"}

_FILL = """
    INSERT INTO usage (request_id, account_id, key_id, price_id, model, dialect, admitted_at, settled_at, result,
                       prompt_tokens, cached_tokens, completion_tokens, charge, first_token_ms)
    SELECT {hex}, 1 + number % {accounts}, 1 + number % {keys}, 1,
           CASE number % 3 WHEN 0 THEN 'echo' WHEN 1 THEN 'coder' ELSE 'small' END,
           CASE number % 7 WHEN 0 THEN 'scale' ELSE 'infermatic' END,
           {first} + number * CAST({step} AS BIGINT) - 900 - number % 5000, {first} + number * CAST({step} AS BIGINT),
           CASE number % 100 WHEN 0 THEN 'failed' WHEN 1 THEN 'disconnected' ELSE 'finished' END,
           500 + number % 700, number % 500, 100 + number % 300, 1000 + number % 1000, 50 + number % 900
    FROM {numbers}
"""

OPERATOR_PAGES = {
    "overview": "",
    "requests": "/requests",
    "requests, page 2": "/requests?cursor={cursor}",
    "requests, a model": "/requests?model=coder",
    "requests, errors": "/requests?errors=1",
    "requests, slow ones": "/requests?min_seconds=5.8",
    "requests, an account": "/requests?account=7",
    "request": "/requests/{request}",
    "usage, 24 hours": "/usage",
    "usage, 7 days by key": "/usage?period=7d&group=key_id",
    "usage, 90 days by account": "/usage?period=90d&group=account_id",
    "queue": "/queue",
    "models": "/models",
    "keys": "/keys",
    "accounts": "/accounts",
    "account": "/accounts/1",
    "audit": "/audit",
}
HOLDER_PAGES = {
    "holder's overview": "",
    "holder's requests": "/requests",
    "holder's requests, a model": "/requests?model=coder",
    "holder's usage, 7 days": "/usage?period=7d",
    "holder's usage, 90 days": "/usage?period=90d",
}


class PageFigures(msgspec.Struct, frozen=True):
    """One page on one database. Times are in seconds."""

    database: str
    page: str
    p50: float
    p95: float
    queries: int


class Options(NamedTuple):
    """The command line."""

    rows: int
    repetitions: int
    databases: list[str]
    json: Path | None


class QueryCounter:
    """Counts the statements that SQLAlchemy executes."""

    def __init__(self, database: Database) -> None:
        self.count = 0
        event.listen(database.engine, "before_cursor_execute", self._count)

    def _count(self, *_arguments: object) -> None:
        self.count += 1


def fill(database: Database, rows: int) -> str:
    """Insert the requests and their sums, and return the key of an account."""
    kind = kind_of(database)
    for number in range(1, ACCOUNTS + 1):
        account = create_account(database, f"account-{number}")
        deposit(database, account.id, 10**15)
    keys = [create_key(database, 1 + number % ACCOUNTS, label=f"key {number}").secret for number in range(KEYS)]
    for model in _MODELS:
        set_price(database, model, 150, 600)
    now = time.time_ns() // 1_000_000
    step = DAYS * 86_400_000 // rows
    with database.write() as connection:
        if kind == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        statement = _FILL.format(
            hex=_HEX[kind],
            numbers=numbers(kind, rows),
            first=now - rows * step,
            step=step,
            accounts=ACCOUNTS,
            keys=KEYS,
        )
        connection.exec_driver_sql(statement.replace("%", "%%") if kind == "postgresql" else statement)
    rebuild_usage_sums(database)
    checkpoint(database)
    return keys[0]


async def measure(database: Database, options: Options, key: str, folder: Path) -> Iterator[PageFigures]:
    """Request every page, as operator and as holder."""
    counter = QueryCounter(database)
    figures = []
    app = console_app(database, folder / "journals")
    async with console_client(app, key=ADMIN_KEY) as operator, another_client(app, key=key) as holder:
        words = {"cursor": "AAAAAABMS0A", "request": f"{options.rows // 2:032x}"}
        for client, pages in ((operator.http, OPERATOR_PAGES), (holder.http, HOLDER_PAGES)):
            for name, path in pages.items():
                url = f"/console{path.format(**words)}"
                figures.append(await _measure_page(client, name, url, counter, options.repetitions))
    kind = kind_of(database)
    return (msgspec.structs.replace(each, database=kind) for each in figures)


async def _measure_page(
    client: httpx.AsyncClient, name: str, url: str, counter: QueryCounter, repetitions: int
) -> PageFigures:
    (await client.get(url)).raise_for_status()
    times = []
    for _ in range(repetitions):
        counter.count, began = 0, time.perf_counter()
        response = await client.get(url)
        times.append(time.perf_counter() - began)
        assert response.status_code == 200, response.text
    return PageFigures("", name, percentile(times, 50), percentile(times, 95), counter.count)


@contextmanager
def filled_database(kind: str, rows: int) -> Iterator[tuple[Database, str]]:
    """Make a database with the requests for the block."""
    with new_databases(kind, 1) as [url]:
        database = Database(url, busy_seconds=600)
        upgrade(database)
        began = time.perf_counter()
        key = fill(database, rows)
        print(f"{kind}: {rows:,} requests in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        yield database, key
        database.close()


def main() -> None:
    """Measure and print."""
    options = _options()
    results: list[PageFigures] = []
    for kind in options.databases:
        with filled_database(kind, options.rows) as (database, key), tempfile.TemporaryDirectory() as folder:
            results += asyncio.run(measure(database, options, key, Path(folder)))
    rows = [("database", "page", "p50", "p95", "queries", "")]
    for each in results:
        verdict = "" if each.p50 <= BAR_SECONDS else "MISSED"
        rows.append(
            (each.database, each.page, milliseconds(each.p50), milliseconds(each.p95), str(each.queries), verdict)
        )
    print(table(rows))
    print(f"target: {milliseconds(BAR_SECONDS)}, median of {options.repetitions}")
    write_json(options.json, results)


def _options() -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS, help="requests (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=20, help="of each page (default: %(default)s)")
    add_databases_option(parser)
    parser.add_argument("--json", type=Path, help="file for all figures")
    given = parser.parse_args()
    return Options(given.rows, given.repetitions, given.databases, given.json)


if __name__ == "__main__":
    main()
