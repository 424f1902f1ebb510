"""Embeddings of dragoman beside those of llama.cpp's own server: same weights, same texts, same run.

    .venv/bin/python -m benchmarks.embeddings

What is measured and how to read it: benchmarks/README.md.
"""

import argparse
import contextlib
import random
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

from benchmarks.harness.closed_loop import RoundResult, run_clients, summarize_round
from benchmarks.harness.connection import UnexpectedResponse, json_post
from benchmarks.harness.figures import TargetRatio, medians, milliseconds, table, write_json
from benchmarks.harness.processes import Server, dragoman_server, exit_on_sigterm, module_server
from benchmarks.harness.stopwatch import Stopwatch
from benchmarks.llama_server import LlamaServerOptions
from tests.support import minilm

OURS, THEIRS = "dragoman", "llama-server"

PARALLEL = 16
LONGEST = 512
"""Tokens of the longest input: the model's context."""

_BAR = TargetRatio(1)
_TIMEOUT_SECONDS = 30
_TEXT = (Path(__file__).parent / "texts" / "english.txt").read_text().split()


class Workload(NamedTuple):
    """What each request asks for."""

    texts: int
    """In a request."""
    words: tuple[int, int]
    """Of a text: the fewest and the most."""
    clients: int


WORKLOADS = {
    "one": Workload(1, (8, 24), 8),
    "short": Workload(64, (8, 24), 2),
    "mixed": Workload(64, (2, 250), 2),
}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One workload. The keys are the servers' names."""

    workload: str
    rounds: dict[str, list[RoundResult]]
    medians: dict[str, RoundResult]
    rate_ratio: float
    """Texts per second, ours / theirs."""


def texts(workload: Workload, seed: int) -> list[str]:
    """Return texts of the workload, cut from a document."""
    source = random.Random(seed)
    lengths = [source.randint(*workload.words) for _ in range(workload.texts)]
    starts = [source.randrange(len(_TEXT) - length) for length in lengths]
    return [" ".join(_TEXT[start : start + length]) for start, length in zip(starts, lengths, strict=True)]


def measure(servers: dict[str, Server], name: str, *, rounds: int, seconds: float) -> Result:
    """Measure both servers in turn, with the same texts in a round. Raises UnexpectedResponse."""
    workload = WORKLOADS[name]
    results: dict[str, list[RoundResult]] = {server: [] for server in servers}
    for number in range(rounds):
        sent = texts(workload, number)
        for server, done in results.items():
            url = servers[server].url
            body = {"model": _model(url), "input": sent, "encoding_format": "base64"}
            request = json_post(url, "/v1/embeddings", body)
            with Stopwatch(servers) as watch:
                log = uvloop.run(run_clients(url, request, workload.clients, seconds))
            done.append(summarize_round(server, watch, log.latencies, workload.texts))
            print(f"{name}, round {number + 1}: {server} {done[-1].rate:.1f} texts/s", file=sys.stderr)
    middle = {server: medians(done) for server, done in results.items()}
    return Result(workload=name, rounds=results, medians=middle, rate_ratio=middle[OURS].rate / middle[THEIRS].rate)


def _model(url: str) -> str:
    with urllib.request.urlopen(f"{url}/v1/models", timeout=_TIMEOUT_SECONDS) as response:
        return str(msgspec.json.decode(response.read())["data"][0]["id"])


def _report(result: Result) -> str:
    workload = WORKLOADS[result.workload]
    low, high = workload.words
    rows = [("", "texts/s", "p50", "p99", "server cores", "others"), *map(_row, result.medians.items())]
    return "\n".join(
        [
            f"{result.workload}: {workload.clients} clients, {workload.texts} texts of {low} to {high} words a request",
            table(rows),
            f"  texts/s, ours / theirs: {result.rate_ratio:.2f} ({_BAR.verdict(result.rate_ratio)})",
        ]
    )


def _row(item: tuple[str, RoundResult]) -> tuple[str, ...]:
    name, figures = item
    times = map(milliseconds, (figures.latency_p50, figures.latency_p99))
    return name, f"{figures.rate:.1f}", *times, f"{figures.server_cores:.2f}", f"{figures.other_cores:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embeddings", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="of each server (default: 3)")
    parser.add_argument("--seconds", type=float, default=8, help="of a round (default: 8)")
    parser.add_argument("--threads", type=int, default=2, help="of either engine (default: 2)")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=[*WORKLOADS])
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args(arguments)
    exit_on_sigterm()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = minilm.write_gguf(folder / "minilm.gguf")
        peer = LlamaServerOptions(str(model), PARALLEL * LONGEST, PARALLEL, options.threads, embeddings=True)
        environment = {"DRAGOMAN_ENGINE_THREADS": str(options.threads)}
        servers = {
            OURS: stack.enter_context(dragoman_server(str(model), environment=environment)),
            THEIRS: stack.enter_context(module_server("benchmarks.llama_server", msgspec.json.encode(peer).decode())),
        }
        try:
            results = [
                measure(servers, name, rounds=options.rounds, seconds=options.seconds) for name in options.workloads
            ]
        except UnexpectedResponse as error:
            print(f"benchmarks.embeddings: {error}", file=sys.stderr)
            return 1
    print("\n\n".join(map(_report, results)))
    write_json(options.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
