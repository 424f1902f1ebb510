"""Measures dragoman in front of another server, beside LiteLLM's proxy, nginx and a bare Starlette proxy.

    .venv/bin/python -m benchmarks.upstream --litellm /path/to/bin/litellm

benchmarks/README.md describes what is measured, and how to read it.
"""

import argparse
import contextlib
import itertools
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

from benchmarks.harness.connection import UnexpectedResponse
from benchmarks.harness.figures import TargetRatio, medians, milliseconds, percentile, table, write_json
from benchmarks.harness.processes import Server, dragoman_server, exit_on_sigterm, module_server
from benchmarks.harness.stopwatch import BENCHMARK_PROCESS, Stopwatch
from benchmarks.litellm_proxy import KEY as LITELLM_KEY
from benchmarks.litellm_proxy import litellm_proxy
from benchmarks.nginx import ANSWER_TEXT, ANSWER_TOKENS, answering_nginx, proxying_nginx
from benchmarks.token_source import STREAM_TEXT, STREAM_TOKENS
from benchmarks.verified_load import Expected, Target, run_clients
from dragoman.accounts.administration.accounts import create_account, deposit
from dragoman.accounts.administration.consistency import find_discrepancies
from dragoman.accounts.administration.keys import KeyRules, create_key
from dragoman.accounts.administration.prices import set_price
from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.migrations import upgrade
from dragoman.core.money import MAX_AMOUNT

DIRECT = "the upstream itself"
OFF = "dragoman"
ACCOUNTS = "dragoman, accounts"
BARE = "bare Starlette"
NGINX = "nginx"
LITELLM = "LiteLLM's proxy"

CLIENTS = 32
STEP_SECONDS = 0.01
"""Of the paced upstream: 100 tokens per second and client, as an engine on a GPU sends them."""

_UNREACHED_LIMIT = 2**40
_WARM_UP_SECONDS = 1.0


class Workload(NamedTuple):
    """What the clients ask."""

    description: str
    clients: int
    expected: Expected


_ANSWER = Expected("answers", ANSWER_TEXT, len(ANSWER_TOKENS), is_stream=False)
_STREAM = Expected("streams", STREAM_TEXT, STREAM_TOKENS, is_stream=True)
_PACED_STREAM = _STREAM._replace(model="paced")

WORKLOADS = {
    "answers": Workload(f"{CLIENTS} clients, answers of {len(ANSWER_TOKENS)} tokens at once", CLIENTS, _ANSWER),
    "one answer": Workload("one client, the same", 1, _ANSWER),
    "streams": Workload(f"{CLIENTS} clients, {STREAM_TOKENS} tokens as fast as they are taken", CLIENTS, _STREAM),
    "paced": Workload(
        f"{CLIENTS} clients, {STREAM_TOKENS} tokens, one every {STEP_SECONDS * 1000:g} ms", CLIENTS, _PACED_STREAM
    ),
    "one stream": Workload(f"one client, {STREAM_TOKENS} tokens as fast as they are taken", 1, _STREAM),
}


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One server's measurements in one round, or their medians. Times are in seconds."""

    answers: float
    """Received and checked, like the tokens and bytes."""
    tokens: float
    bytes: float
    answer_rate: float
    token_rate: float
    p50: float
    p99: float
    first_token_p50: float
    server_seconds: float
    """Processor time per answer."""
    server_cores: float
    client_cores: float
    upstream_cores: float
    other_cores: float


Results = dict[str, dict[str, list[Figures]]]
"""The rounds of each server, by workload."""


class Bar(NamedTuple):
    """A target, and how to compute what is compared with it."""

    description: str
    workload: str
    servers: tuple[str, str]
    ratio: Callable[[Figures, Figures], float]
    target: TargetRatio


class Maximum(NamedTuple):
    """The most that dragoman may add to a time."""

    description: str
    workload: str
    seconds: Callable[[Figures], float]
    limit: float


def _answer_rates(ours: Figures, theirs: Figures) -> float:
    return ours.answer_rate / theirs.answer_rate


def _token_rates(ours: Figures, theirs: Figures) -> float:
    return ours.token_rate / theirs.token_rate


BARS = (
    Bar("answers/s", "answers", (OFF, LITELLM), _answer_rates, TargetRatio(30)),
    Bar("answers/s", "answers", (ACCOUNTS, LITELLM), _answer_rates, TargetRatio(20)),
    Bar("answers/s", "answers", (OFF, BARE), _answer_rates, TargetRatio(0.5)),
    Bar("tokens/s", "streams", (OFF, BARE), _token_rates, TargetRatio(0.6)),
)
MAXIMA = (
    Maximum("p50 added", "one answer", lambda figures: figures.p50, 0.001),
    Maximum("first token added, p50", "one stream", lambda figures: figures.first_token_p50, 0.002),
)


def _run(name: str, targets: dict[str, Target], upstreams: list[Server], workload: Workload, seconds: float) -> Figures:
    processes = {each: target.server for each, target in targets.items()}
    processes |= {f"upstream {number}": server for number, server in enumerate(upstreams)}
    with Stopwatch(processes) as watch:
        received = uvloop.run(run_clients(targets[name], workload.expected, workload.clients, seconds))
    answers = len(received.seconds)
    upstream_cores = sum(watch.cores[f"upstream {number}"] for number in range(len(upstreams)))
    idle_cores = sum(watch.cores[each] for each in targets if each not in (name, DIRECT))
    server_cores = 0.0 if name == DIRECT else watch.cores[name]
    return Figures(
        answers=answers,
        tokens=received.tokens,
        bytes=received.bytes,
        answer_rate=answers / watch.seconds,
        token_rate=received.tokens / watch.seconds,
        p50=percentile(received.seconds, 50),
        p99=percentile(received.seconds, 99),
        first_token_p50=percentile(received.first_token_seconds, 50),
        server_seconds=server_cores * watch.seconds / max(1, answers),
        server_cores=server_cores,
        client_cores=watch.cores[BENCHMARK_PROCESS],
        upstream_cores=upstream_cores,
        other_cores=watch.other_cores + idle_cores,
    )


def _measure(
    targets: dict[str, Target], upstreams: list[Server], names: list[str], rounds: int, seconds: float
) -> Results:
    """Run all rounds of each workload. The servers take turns. Raises UnexpectedResponse, naming the server."""
    results: Results = {}
    for workload_name in names:
        workload = WORKLOADS[workload_name]
        done: dict[str, list[Figures]] = {name: [] for name in targets}
        for number, name in itertools.product(range(-1, rounds), targets):
            if name == LITELLM and workload.expected.is_stream and number != 0:
                continue  # It takes half a minute for a stream of every client.
            try:
                figures = _run(name, targets, upstreams, workload, seconds if number >= 0 else _WARM_UP_SECONDS)
            except UnexpectedResponse as error:
                raise UnexpectedResponse(f"{name}, {workload_name}: {error}") from None
            if number >= 0:
                done[name].append(figures)
                rates = f"{figures.answer_rate:,.0f} answers/s, {figures.token_rate:,.0f} tokens/s"
                print(f"{workload_name}, round {number + 1}: {name} {rates}", file=sys.stderr)
        results[workload_name] = done
        print(f"\n{_report(workload_name, done)}", flush=True)
    return results


def _report(workload_name: str, rounds: dict[str, list[Figures]]) -> str:
    figures = {name: medians(done) for name, done in rounds.items()}
    direct = figures[DIRECT]
    rows = [
        ("", "answers/s", "tokens/s", "p50", "added", "p99", "first token", "added", "per answer", "per token"),
        *((name, *_columns(each, direct)) for name, each in figures.items()),
    ]
    cores = [
        ("", "answers", "tokens", "bytes", "server cores", "clients", "upstream", "others"),
        *((name, *_work(each)) for name, each in figures.items()),
    ]
    return "\n".join([f"{workload_name}: {WORKLOADS[workload_name].description}", table(rows), table(cores)])


def _columns(figures: Figures, direct: Figures) -> tuple[str, ...]:
    per_token = figures.server_seconds * figures.answers / max(1.0, figures.tokens)
    return (
        f"{figures.answer_rate:,.0f}",
        f"{figures.token_rate:,.0f}",
        f"{figures.p50 * 1000:,.2f} ms",
        f"{(figures.p50 - direct.p50) * 1000:,.2f} ms",
        f"{figures.p99 * 1000:,.2f} ms",
        f"{figures.first_token_p50 * 1000:,.2f} ms",
        f"{(figures.first_token_p50 - direct.first_token_p50) * 1000:,.2f} ms",
        f"{figures.server_seconds * 1e6:,.0f} µs",
        f"{per_token * 1e6:,.1f} µs",
    )


def _work(figures: Figures) -> tuple[str, ...]:
    cores = (figures.server_cores, figures.client_cores, figures.upstream_cores, figures.other_cores)
    return (
        f"{figures.answers:,.0f}",
        f"{figures.tokens:,.0f}",
        f"{figures.bytes:,.0f}",
        *(f"{core:.2f}" for core in cores),
    )


def _verdicts(results: Results) -> Iterator[str]:
    """Compare round by round: what else the machine does in a round concerns all servers."""
    for bar in BARS:
        rounds = results.get(bar.workload, {})
        ours, theirs = bar.servers
        if ours in rounds and theirs in rounds:
            pairs = list(zip(rounds[ours], rounds[theirs], strict=False))
            ratio = statistics.median(itertools.starmap(bar.ratio, pairs))
            work = statistics.median(our.server_seconds / their.server_seconds for our, their in pairs)
            verdict = bar.target.verdict(ratio)
            yield f"{bar.description}, {ours} / {theirs}: {ratio:.2f}, {verdict}; processor time per answer: {work:.2f}"
    for maximum in MAXIMA:
        rounds = results.get(maximum.workload, {})
        if OFF in rounds:
            added = maximum.seconds(medians(rounds[OFF])) - maximum.seconds(medians(rounds[DIRECT]))
            verdict = "met" if added < maximum.limit else "MISSED"
            limit = milliseconds(maximum.limit)
            yield f"{maximum.description}, {OFF}: {added * 1000:.2f} ms, target below {limit}: {verdict}"


def _settings(folder: Path, upstreams: dict[str, str]) -> Path:
    """Write dragoman's settings file: each model is a deployment with one upstream."""
    settings = folder / "dragoman.toml"
    settings.write_text(
        "\n".join(
            f'[[deployments]]\nname = "{name}"\n[[deployments.upstreams]]\nurl = "{url}"\nkind = "openai"\n'
            for name, url in upstreams.items()
        )
    )
    return settings


@contextlib.contextmanager
def _metered(settings: Path, folder: Path, upstreams: dict[str, str]) -> Iterator[tuple[Target, Database]]:
    """Run a server with durable accounts, with a key that has every limit and reaches none."""
    database = Database(f"sqlite:///{folder}/accounts.db")
    upgrade(database)
    account = create_account(database, "benchmark")
    deposit(database, account.id, MAX_AMOUNT // 2)
    for name in upstreams:
        set_price(database, name, 150, 600, cached=15)
    rules = KeyRules(
        budget=MAX_AMOUNT // 4,
        requests_per_minute=_UNREACHED_LIMIT,
        tokens_per_minute=_UNREACHED_LIMIT,
        concurrent_requests=_UNREACHED_LIMIT,
    )
    key = create_key(database, account.id, rules=rules).secret
    environment = {"DRAGOMAN_ACCOUNTS_DATABASE": database.url}
    with dragoman_server("--config", str(settings), "--workers", "1", environment=environment) as server:
        yield Target(server, dict.fromkeys(upstreams, server.url), key), database
    database.close()


@contextlib.contextmanager
def _running_targets(folder: Path, litellm: Path | None) -> Iterator[tuple[dict[str, Target], list[Server], Database]]:
    """Run the upstreams and every server in front of them."""
    with contextlib.ExitStack() as stack:
        started = {
            "answers": stack.enter_context(answering_nginx(folder / "answering")),
            "streams": stack.enter_context(module_server("benchmarks.token_source", "0")),
            "paced": stack.enter_context(module_server("benchmarks.token_source", str(STEP_SECONDS))),
        }
        upstreams = {name: server.url for name, server in started.items()}

        def one(server: Server, key: str | None = None) -> Target:
            return Target(server, dict.fromkeys(upstreams, server.url), key)

        settings = _settings(folder, upstreams)
        targets = {DIRECT: Target(started["answers"], upstreams)}
        arguments = ("--config", str(settings), "--workers", "1")
        targets[OFF] = one(stack.enter_context(dragoman_server(*arguments)))
        targets[ACCOUNTS], database = stack.enter_context(_metered(settings, folder, upstreams))
        recorded = msgspec.json.encode(upstreams).decode()
        targets[BARE] = one(stack.enter_context(module_server("benchmarks.bare_proxy", recorded)))
        process_id, urls = stack.enter_context(proxying_nginx(folder / "proxying", upstreams))
        targets[NGINX] = Target(Server(urls["answers"], process_id), urls)
        if litellm is not None:
            targets[LITELLM] = one(stack.enter_context(litellm_proxy(litellm, folder, upstreams)), LITELLM_KEY)
        yield targets, list(started.values()), database


def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upstream", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each server (default: 3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of a round (default: 3)")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--litellm", type=Path, help="path of the program litellm, from an environment of its own")
    parser.add_argument("--json", type=Path, help="file for the results of every round")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds must be at least 1, --seconds above 0")
    exit_on_sigterm()
    with (
        tempfile.TemporaryDirectory() as folder,
        _running_targets(Path(folder), options.litellm) as (targets, upstreams, database),
    ):
        results = _measure(targets, upstreams, options.workloads, options.rounds, options.seconds)
        if violations := find_discrepancies(database):
            raise UnexpectedResponse(f"the accounts do not balance: {violations}")
    print(f"\nMedians of {options.rounds} rounds of {options.seconds:g} seconds. Every answer was whole and right.\n")
    print("\n".join(_verdicts(results)))
    write_json(options.json, results)


if __name__ == "__main__":
    try:
        main()
    except UnexpectedResponse as error:
        sys.exit(f"benchmarks.upstream: {error}")
