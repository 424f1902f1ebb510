"""Measures the cost of accounting: the echo engine with keys, limits, holds and settlements, and without accounts.

    .venv/bin/python -m benchmarks.gateway

benchmarks/README.md describes what is measured, and how to read it.
"""

import argparse
import contextlib
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

from benchmarks.harness.closed_loop import RoundResult, run_clients, summarize_round
from benchmarks.harness.connection import UnexpectedResponse, json_post
from benchmarks.harness.figures import TargetRatio, medians, milliseconds, table, write_json
from benchmarks.harness.processes import Server, dragoman_server, exit_on_sigterm
from benchmarks.harness.stopwatch import Stopwatch
from benchmarks.litellm_proxy import KEY as LITELLM_KEY
from benchmarks.litellm_proxy import litellm_proxy
from dragoman.accounts.administration.accounts import create_account, deposit
from dragoman.accounts.administration.consistency import find_discrepancies
from dragoman.accounts.administration.keys import KeyRules, create_key
from dragoman.accounts.administration.prices import set_price
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.core.money import MAX_AMOUNT
from tests.support.postgresql import new_database, running_postgresql

OFF = "off"
RECORDED = "recorded"
"""Without accounts, but with usage records: the default of a server."""
SQLITE = "SQLite"
POSTGRESQL = "PostgreSQL"
LITELLM = "LiteLLM's proxy"
CLIENTS = (1, 32)

RATE_TARGET = TargetRatio(0.65)
"""Rate with 32 clients, relative to accounting off."""
LITELLM_TARGET = TargetRatio(15)
"""Rate of SQLite relative to LiteLLM's proxy, with 32 clients."""
MAX_ADDED_SECONDS = 0.001
"""Added to the median response of one client."""

_PATH = "/v1/chat/completions"
_BODY = {"model": "echo", "messages": [{"role": "user", "content": "ping"}], "max_tokens": 16}
_UNREACHED_LIMIT = 2**40
_WARM_UP_SECONDS = 1.0


class MeasuredServer(NamedTuple):
    """A server and the key that it needs."""

    server: Server
    key: str | None


class Result(msgspec.Struct, frozen=True):
    """The results with one number of clients. The keys are the servers' names."""

    clients: int
    rounds: dict[str, list[RoundResult]]
    medians: dict[str, RoundResult]


async def _latencies(server: MeasuredServer, clients: int, seconds: float) -> list[float]:
    """Return the seconds that each response took. The clients start no request after `seconds`."""
    headers = {} if server.key is None else {"Authorization": f"Bearer {server.key}"}
    request = json_post(server.server.url, _PATH, _BODY, headers)
    return (await run_clients(server.server.url, request, clients, seconds)).latencies


def _measure(servers: dict[str, MeasuredServer], clients: int, rounds: int, seconds: float) -> Result:
    """Run all rounds with one number of clients. The servers take turns."""
    done: dict[str, list[RoundResult]] = {name: [] for name in servers}
    for number in range(rounds):
        for name in servers:
            done[name].append(_run(name, servers, clients, seconds))
            rate = done[name][-1].rate
            print(f"{clients} clients, round {number + 1}: {name} {rate:,.0f} requests/s", file=sys.stderr)
    return Result(clients, done, {name: medians(figures) for name, figures in done.items()})


def _run(name: str, servers: dict[str, MeasuredServer], clients: int, seconds: float) -> RoundResult:
    with Stopwatch({server_name: each.server for server_name, each in servers.items()}) as watch:
        latencies = uvloop.run(_latencies(servers[name], clients, seconds))
    return summarize_round(name, watch, latencies)


def _report(result: Result) -> str:
    off = result.medians[OFF]
    rows = [
        ("", "requests/s", "of off", "p50", "p99", "added p50", "server", "clients", "others"),
        *((name, *_columns(figures, off)) for name, figures in result.medians.items()),
    ]
    lines = [f"{result.clients} clients", table(rows)]
    for name, figures in result.medians.items():
        if name in (SQLITE, POSTGRESQL) and result.clients > 1:
            lines.append(f"  {name} / off: {RATE_TARGET.verdict(figures.rate / off.rate)}")
        elif name == LITELLM and result.clients > 1:
            ratio = result.medians[SQLITE].rate / figures.rate
            lines.append(f"  {SQLITE} / {name}: {ratio:.1f}, {LITELLM_TARGET.verdict(ratio)}")
        elif name == SQLITE:
            met = figures.latency_p50 - off.latency_p50 < MAX_ADDED_SECONDS
            lines.append(f"  {name}: added p50, target {milliseconds(MAX_ADDED_SECONDS)}: {'met' if met else 'MISSED'}")
    return "\n".join(lines)


def _columns(figures: RoundResult, off: RoundResult) -> tuple[str, ...]:
    cores = (figures.server_cores, figures.client_cores, figures.other_cores)
    return (
        f"{figures.rate:,.0f}",
        f"{figures.rate / off.rate:.2f}",
        f"{figures.latency_p50 * 1000:.2f} ms",
        f"{figures.latency_p99 * 1000:.2f} ms",
        f"{(figures.latency_p50 - off.latency_p50) * 1000:.2f} ms",
        *(f"{core:.2f}" for core in cores),
    )


@contextlib.contextmanager
def _metered(url: str) -> Iterator[tuple[MeasuredServer, Database]]:
    """Run a server over a new database, with a key that has every limit and reaches none."""
    database = Database(url)
    upgrade(database)
    account = create_account(database, "benchmark")
    deposit(database, account.id, MAX_AMOUNT // 2)
    set_price(database, "echo", 150, 600, cached=15)
    rules = KeyRules(
        budget=MAX_AMOUNT // 4,
        requests_per_minute=_UNREACHED_LIMIT,
        tokens_per_minute=_UNREACHED_LIMIT,
        concurrent_requests=_UNREACHED_LIMIT,
    )
    key = create_key(database, account.id, rules=rules).secret
    with dragoman_server("echo", environment={"DRAGOMAN_ACCOUNTS_DATABASE": url}) as server:
        yield MeasuredServer(server, key), database
    database.close()


def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each server (default: 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of a round (default: 4)")
    parser.add_argument("--litellm", type=Path, help="path of the program litellm, from an environment of its own")
    parser.add_argument("--folder", type=Path, help="folder of SQLite's file (default: that of temporary files)")
    parser.add_argument("--json", type=Path, help="file for the results of every round")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds must be at least 1, --seconds above 0")
    exit_on_sigterm()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder))
        servers = {OFF: MeasuredServer(stack.enter_context(dragoman_server("echo")), None)}
        if options.litellm is not None:
            servers[LITELLM] = MeasuredServer(
                stack.enter_context(litellm_proxy(options.litellm, Path(folder))), LITELLM_KEY
            )
        postgresql = stack.enter_context(running_postgresql(durable=True))
        data = {"DRAGOMAN_RECORD_USAGE": "true", "XDG_DATA_HOME": folder}
        servers[RECORDED] = MeasuredServer(stack.enter_context(dragoman_server("echo", environment=data)), None)
        databases = []
        for name, url in ((SQLITE, f"sqlite:///{folder}/accounts.db"), (POSTGRESQL, new_database(postgresql))):
            servers[name], database = stack.enter_context(_metered(url))
            databases.append(database)
        for clients, name in itertools.product(CLIENTS, servers):
            _run(name, servers, clients, _WARM_UP_SECONDS)
        results = [_measure(servers, clients, options.rounds, options.seconds) for clients in CLIENTS]
        if violations := [each for database in databases for each in find_discrepancies(database)]:
            raise UnexpectedResponse(f"the accounts do not balance: {violations}")
    print(f"Medians of {options.rounds} rounds of {options.seconds:g} seconds\n")
    print("\n\n".join(map(_report, results)))
    write_json(options.json, results)


if __name__ == "__main__":
    try:
        main()
    except UnexpectedResponse as error:
        sys.exit(f"benchmarks.gateway: {error}")
