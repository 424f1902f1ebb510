"""The cost of accounting: admissions and settlements compared to a bare INSERT and COMMIT, with and without a million
rows.

    .venv/bin/python -m benchmarks.ledger

docs/ledger.md explains the measurements.
"""

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

from benchmarks.databases import add_databases_option, checkpoint, kind_of, new_databases, numbers
from benchmarks.harness.figures import TargetRatio, medians, percentile, table, write_json
from benchmarks.harness.stopwatch import cpu_seconds
from dragoman.accounts.administration.accounts import create_account, deposit
from dragoman.accounts.administration.keys import KeyRules, create_key
from dragoman.accounts.administration.prices import set_price
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.accounts.database.statements import insert
from dragoman.accounts.database.tables import schema_migrations
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.ledger.operations import Admission, KeyLookup, Settled
from dragoman.accounts.process.client import LedgerClient
from dragoman.core.context import key_digest, new_request_id
from tests.support.ledger_harness import settlement
from tests.support.server import LEDGER_PROCESS, children_of

CALLERS = (1, 32)
ROWS = 1_000_000
ADDED_SECONDS = 0.001
"""The maximum that accounting may add to a request of a single client on SQLite, median."""

_MODEL = "parrot"
_SETTLED_BAR = TargetRatio(0.9)
_ADDED_BAR = TargetRatio(1)

_FILL = """
    INSERT INTO usage (request_id, account_id, key_id, price_id, model, dialect, admitted_at, settled_at, result,
                       prompt_tokens, cached_tokens, completion_tokens, charge)
    SELECT {hex}, 1 + number - number / 100 * 100, 1 + number - number / 1000 * 1000, 1, 'parrot', 'arcee',
           number, number, 'finished', 500, 0, 200, 0
    FROM {numbers}
"""
_HEX = {"sqlite": "printf('%032x', number)", "postgresql": "lpad(to_hex(number), 32, '0')"}


class Round(msgspec.Struct, frozen=True):
    """Measurements of one way of committing, in one round or as medians. Times are in seconds."""

    rate: float
    """Bare transactions, or requests with admission and settlement, per second."""
    latency_p50: float
    """Of an admission, or of a bare transaction."""
    latency_p99: float
    cpu_seconds: float
    """Of this process and its ledger process, for each request."""


class DatabaseResult(msgspec.Struct, frozen=True):
    """The medians of one database, by `bare` and the numbers of callers without and with a million rows."""

    database: str
    medians: dict[str, Round]


class Options(NamedTuple):
    """The command line."""

    rounds: int
    seconds: float
    databases: list[str]
    json: Path | None


class LedgerBenchmark:
    """A database with an account and a key with limits."""

    def __init__(self, url: str, rows: int) -> None:
        self.database = Database(url)
        upgrade(self.database)
        account = create_account(self.database, "benchmark")
        deposit(self.database, account.id, 10**18)
        rules = KeyRules(requests_per_minute=10**9, tokens_per_minute=10**15)
        self.digest = key_digest(create_key(self.database, account.id, rules=rules).secret)
        set_price(self.database, _MODEL, 150, 600)
        if rows:
            self._fill(rows)

    def _fill(self, rows: int) -> None:
        """Insert old requests, and wait for the disk."""
        kind = kind_of(self.database)
        with self.database.write() as connection:
            connection.exec_driver_sql(_FILL.format(hex=_HEX[kind], numbers=numbers(kind, rows)))
        checkpoint(self.database)

    def bare(self, seconds: float) -> Round:
        """Commit one row at a time: the lower limit for any ledger on this database."""
        session = self.database.session()
        statement = insert(self.database.dialect, schema_migrations, ("number", "name", "applied_at"))
        latencies: list[float] = []
        number = time.time_ns()
        began, cpu = time.perf_counter(), time.process_time()
        while (now := time.perf_counter()) - began < seconds:
            number += 1
            session.begin()
            session.write(statement, number, "bare", 0)
            session.commit()
            latencies.append(time.perf_counter() - now)
        session.close()
        return _round(latencies, time.perf_counter() - began, time.process_time() - cpu)

    async def ledger(self, callers: int, seconds: float) -> Round:
        """Run callers in a closed loop, each admitted and then settled without waiting for the settlement."""
        latencies: list[float] = []

        async def call() -> None:
            while (now := time.perf_counter()) - began < seconds:
                admission = Admission(
                    request_id=new_request_id(),
                    key_digest=self.digest,
                    model=_MODEL,
                    dialect="arcee",
                    prompt_tokens=500,
                    max_completion_tokens=500,
                )
                admitted = await ledger.admit(admission)
                latencies.append(time.perf_counter() - now)
                settled.append(ledger.settle(settlement(admitted.request_id, 500, completion=200)))
                await asyncio.sleep(0)

        async with LedgerClient(self.database, new_process_id()) as ledger:
            settled: list[asyncio.Future[Settled]] = []
            await ledger.look_up_key(KeyLookup(self.digest, None))  # Waits for the ledger process.
            (process,) = children_of(os.getpid(), LEDGER_PROCESS)
            began, cpu = time.perf_counter(), time.process_time() + cpu_seconds(process)
            await asyncio.gather(*(call() for _ in range(callers)))
            await asyncio.gather(*settled)
            cpu = time.process_time() + cpu_seconds(process) - cpu
            return _round(latencies, time.perf_counter() - began, cpu)


def _round(latencies: list[float], seconds: float, cpu_seconds: float) -> Round:
    p50, p99 = percentile(latencies, 50), percentile(latencies, 99)
    return Round(len(latencies) / seconds, p50, p99, cpu_seconds / len(latencies))


def _measure(name: str, new: LedgerBenchmark, filled: LedgerBenchmark, options: Options) -> DatabaseResult:
    rounds: dict[str, list[Round]] = {}
    for number in range(options.rounds):
        rounds.setdefault("bare", []).append(new.bare(options.seconds))
        for callers in CALLERS:
            # Alternate the order: the second one finds the disk busy with the writes of the first.
            for rows, benchmark in (("", new), (f", {ROWS:,} rows", filled))[:: -1 if number % 2 else 1]:
                done = uvloop.run(benchmark.ledger(callers, options.seconds))
                rounds.setdefault(f"{callers} callers{rows}", []).append(done)
        print(f"{name}, round {number + 1} of {options.rounds}", file=sys.stderr)
    return DatabaseResult(name, {way: medians(done) for way, done in rounds.items()})


def _report(result: DatabaseResult) -> str:
    rows = [
        (result.database, "a second", "p50", "p99", "processor time each"),
        *((way, *_figures(done)) for way, done in result.medians.items()),
    ]
    lines = [table(rows)]
    for callers in CALLERS:
        new, filled = (result.medians[f"{callers} callers{rows}"] for rows in ("", f", {ROWS:,} rows"))
        ratio = new.latency_p50 / filled.latency_p50
        lines.append(f"  admission p50, {callers} callers, without / with rows: {_verdict(ratio, _SETTLED_BAR)}")
    if result.database == "sqlite":
        ratio = ADDED_SECONDS / result.medians[f"{CALLERS[0]} callers"].latency_p50
        lines.append(f"  {ADDED_SECONDS * 1000:g} ms / admission p50 of one caller: {_verdict(ratio, _ADDED_BAR)}")
    ratio = result.medians[f"{CALLERS[-1]} callers"].rate / result.medians["bare"].rate
    lines.append(f"  requests of {CALLERS[-1]} callers / bare transactions: {ratio:.2f}")
    return "\n".join(lines)


def _verdict(ratio: float, bar: TargetRatio) -> str:
    return f"{ratio:.2f} ({bar.verdict(ratio)})"


def _figures(done: Round) -> tuple[str, ...]:
    times = (f"{done.latency_p50 * 1000:.2f} ms", f"{done.latency_p99 * 1000:.2f} ms")
    return (f"{done.rate:,.0f}", *times, f"{done.cpu_seconds * 1e6:.0f} µs")


def _parse() -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement in a round (default: 2)")
    add_databases_option(parser)
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds must be at least 1 and --seconds more than 0")
    return Options(options.rounds, options.seconds, options.databases, options.json)


def main() -> None:
    """Measure and print."""
    options = _parse()
    results = []
    for kind in options.databases:
        with new_databases(kind, 2, durable=True) as (new_url, filled_url):
            new, filled = LedgerBenchmark(new_url, 0), LedgerBenchmark(filled_url, ROWS)
            results.append(_measure(kind, new, filled, options))
            for benchmark in (new, filled):
                benchmark.database.close()
    print(f"Medians of {options.rounds} rounds of {options.seconds:g} seconds each\n")
    print("\n\n".join(map(_report, results)))
    write_json(options.json, results)


if __name__ == "__main__":
    main()
