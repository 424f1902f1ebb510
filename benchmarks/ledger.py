"""What accounting costs: admissions and settlements beside a bare INSERT and COMMIT, with and without a million rows.

    .venv/bin/python -m benchmarks.ledger

What is measured and how to read it: docs/ledger.md.
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
from benchmarks.figures import TargetRatio, medians, percentile, table, write_json
from benchmarks.stopwatch import cpu_seconds
from dragoman.accounts.administration.accounts import create_account, deposit
from dragoman.accounts.administration.keys import KeyRules, create_key
from dragoman.accounts.administration.prices import set_price
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.accounts.database.statements import insert
from dragoman.accounts.database.tables import schema_migrations
from dragoman.accounts.identifiers import new_process_id
from dragoman.accounts.ledger.operations import Admission, KeyLookup, Settled, Settlement
from dragoman.accounts.process.client import LedgerClient
from dragoman.core.identifiers import key_digest, new_request_id
from tests.support.server import LEDGER_PROCESS, children_of

CALLERS = (1, 32)
ROWS = 1_000_000
ADDED_SECONDS = 0.001
"""The most that accounting may add to a request of one client, median, on SQLite."""

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
    """One way of committing in one round, or the medians. Times are in seconds."""

    rate: float
    """Requests, each admitted and settled, or bare transactions, a second."""
    latency_p50: float
    """Of an admission, or of a bare transaction."""
    latency_p99: float
    cpu_seconds: float
    """Of this process, for each request."""


class Result(msgspec.Struct, frozen=True):
    """One database. The keys are `bare` and the numbers of callers, without and with a million rows."""

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
        """Put old requests into the table, and let the disk finish with that."""
        kind = kind_of(self.database)
        with self.database.write() as connection:
            connection.exec_driver_sql(_FILL.format(hex=_HEX[kind], numbers=numbers(kind, rows)))
        checkpoint(self.database)

    def bare(self, seconds: float) -> Round:
        """A row and a COMMIT, again and again: what no ledger on this database could do with less."""
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
        """Callers who are admitted, settle without waiting for it, and come again."""
        latencies: list[float] = []

        async def call() -> None:
            while (now := time.perf_counter()) - began < seconds:
                admission = Admission(new_request_id(), self.digest, _MODEL, "arcee", 500, 500)
                admitted = await ledger.admit(admission)
                latencies.append(time.perf_counter() - now)
                settled.append(ledger.settle(Settlement(admitted.request_id, 500, 0, 200, "finished")))
                await asyncio.sleep(0)

        async with LedgerClient(self.database, new_process_id()) as ledger:
            settled: list[asyncio.Future[Settled]] = []
            await ledger.look_up_key(KeyLookup(self.digest, None))  # Now its process is there.
            (process,) = children_of(os.getpid(), LEDGER_PROCESS)
            began, cpu = time.perf_counter(), time.process_time() + cpu_seconds(process)
            await asyncio.gather(*(call() for _ in range(callers)))
            await asyncio.gather(*settled)
            cpu = time.process_time() + cpu_seconds(process) - cpu
            return _round(latencies, time.perf_counter() - began, cpu)


def _round(latencies: list[float], seconds: float, cpu_seconds: float) -> Round:
    p50, p99 = percentile(latencies, 50), percentile(latencies, 99)
    return Round(len(latencies) / seconds, p50, p99, cpu_seconds / len(latencies))


def _measure(name: str, new: LedgerBenchmark, filled: LedgerBenchmark, options: Options) -> Result:
    rounds: dict[str, list[Round]] = {}
    for number in range(options.rounds):
        rounds.setdefault("bare", []).append(new.bare(options.seconds))
        for callers in CALLERS:
            # In turns: whoever comes second finds the disk busy with what the first one wrote.
            for rows, benchmark in (("", new), (f", {ROWS:,} rows", filled))[:: -1 if number % 2 else 1]:
                done = uvloop.run(benchmark.ledger(callers, options.seconds))
                rounds.setdefault(f"{callers} callers{rows}", []).append(done)
        print(f"{name}, round {number + 1} of {options.rounds}", file=sys.stderr)
    return Result(name, {way: medians(done) for way, done in rounds.items()})


def _report(result: Result) -> str:
    rows = [
        (result.database, "a second", "p50", "p99", "processor time each"),
        *((way, *_figures(done)) for way, done in result.medians.items()),
    ]
    lines = [table(rows)]
    for callers in CALLERS:
        new, filled = (result.medians[f"{callers} callers{rows}"] for rows in ("", f", {ROWS:,} rows"))
        ratio = new.latency_p50 / filled.latency_p50
        lines.append(f"  admission p50, {callers} callers, without / with rows: {_judged(ratio, _SETTLED_BAR)}")
    if result.database == "sqlite":
        ratio = ADDED_SECONDS / result.medians[f"{CALLERS[0]} callers"].latency_p50
        lines.append(f"  {ADDED_SECONDS * 1000:g} ms / admission p50 of one caller: {_judged(ratio, _ADDED_BAR)}")
    ratio = result.medians[f"{CALLERS[-1]} callers"].rate / result.medians["bare"].rate
    lines.append(f"  requests of {CALLERS[-1]} callers / bare transactions: {ratio:.2f}")
    return "\n".join(lines)


def _judged(ratio: float, bar: TargetRatio) -> str:
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
    given = parser.parse_args()
    if given.rounds < 1 or given.seconds <= 0:
        parser.error("--rounds must be at least 1 and --seconds more than 0")
    return Options(given.rounds, given.seconds, given.databases, given.json)


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
