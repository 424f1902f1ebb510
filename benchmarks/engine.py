"""dragoman's embedded engine beside llama.cpp's own server: same weights, same settings, same run.

    .venv/bin/python -m benchmarks.engine

What is measured and how to read it: benchmarks/README.md.
"""

import argparse
import contextlib
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

from benchmarks import chat_load
from benchmarks.harness.connection import UnexpectedResponse
from benchmarks.harness.figures import TargetRatio, medians, milliseconds, percentile, table, write_json
from benchmarks.harness.processes import Server, dragoman_server, exit_on_sigterm, module_server
from benchmarks.harness.stopwatch import BENCHMARK_PROCESS, Stopwatch
from benchmarks.harness.workloads import WORKLOADS, Conversations
from benchmarks.llama_server import LlamaServerOptions
from benchmarks.rewrite_weights import rewritten
from dragoman.engines.llama.weights.rewriting import faster_file
from dragoman.engines.llama.weights.sources import bundled

PARALLEL = 16
CONTEXT_CELLS = 16384
WEIGHTS = ("shipped", "q8_0", "q4_0")
OURS = "dragoman"
THEIRS = "llama-server"

_MODELS_SECONDS = 30


class Bars(NamedTuple):
    """The lowest ours / theirs of tokens/s, and the lowest theirs / ours of the first token's 95th percentile."""

    tokens_per_second: TargetRatio
    first_token_p95: TargetRatio | None


_SHARED_BARS = {
    "shipped": Bars(TargetRatio(2.5), TargetRatio(8)),
    "rewritten": Bars(TargetRatio(4), TargetRatio(10)),
    "q8_0": Bars(TargetRatio(3), TargetRatio(10)),
    "q4_0": Bars(TargetRatio(3), TargetRatio(10)),
}
"""Weights that dragoman serves → bars. llama-server has the same, or the file as shipped if dragoman rewrites it."""

_OTHER_BARS = {"unshared": Bars(TargetRatio(1), TargetRatio(1)), "single": Bars(TargetRatio(0.95), None)}


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One server's figures in one round, or their medians. Times are in seconds, shares in cores."""

    tokens_per_second: float
    first_token_p50: float
    first_token_p95: float
    between_tokens_p50: float
    prompt_tokens: float
    """Per request, on average."""
    server_cores: float
    idle_server_cores: float
    """Cores used by the server that was not under load."""
    client_cores: float
    other_cores: float
    """Cores used by other processes on the machine."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One workload. The keys are the servers' names."""

    workload: str
    weights: str
    rounds: dict[str, list[Round]]
    medians: dict[str, Round]
    tokens_per_second_ratio: float
    """Ours / theirs."""
    first_token_p95_ratio: float
    """Theirs / ours."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The command line."""

    rounds: int
    requests: int
    threads: int
    workloads: list[str]
    weights: str
    """A key of _SHARED_BARS."""
    model: Path
    json: Path | None


class EngineBenchmark:
    """Measures both running servers."""

    def __init__(self, servers: dict[str, Server], options: Options) -> None:
        self._servers = servers
        self._options = options
        self._models = {name: model_name(server.url) for name, server in servers.items()}

    def warm_up(self) -> None:
        """Run one short round on each, so that no measured request is a server's first. Raises UnexpectedResponse."""
        for name in self._servers:
            self._run(name, WORKLOADS["unshared"].for_round("warm-up", 1)[:2])

    def measure(self, workload: str) -> Result:
        """Run all rounds of one workload, alternating between the servers. Raises UnexpectedResponse."""
        rounds: dict[str, list[Round]] = {name: [] for name in self._servers}
        for number in range(self._options.rounds):
            conversations = WORKLOADS[workload].for_round(f"{workload} {number}", self._options.requests)
            for name, done in rounds.items():
                done.append(self._run(name, conversations))
                rate = done[-1].tokens_per_second
                print(f"{workload}, round {number + 1}: {name} {rate:.1f} tokens/s", file=sys.stderr)
        ours, theirs = medians(rounds[OURS]), medians(rounds[THEIRS])
        if ours.prompt_tokens != theirs.prompt_tokens:
            raise UnexpectedResponse(
                f"the prompts differ: {ours.prompt_tokens} tokens here, {theirs.prompt_tokens} there"
            )
        return Result(
            workload=workload,
            weights=self._options.weights,
            rounds=rounds,
            medians={OURS: ours, THEIRS: theirs},
            tokens_per_second_ratio=ours.tokens_per_second / theirs.tokens_per_second,
            first_token_p95_ratio=theirs.first_token_p95 / ours.first_token_p95,
        )

    def _run(self, name: str, conversations: Conversations) -> Round:
        url, model = self._servers[name].url, self._models[name]
        with Stopwatch(self._servers) as watch:
            answers = uvloop.run(chat_load.run_clients(url, model, conversations))
        first = [answer.seconds_to_first_token for answer in answers]
        between = [gap for answer in answers for gap in answer.seconds_between_tokens]
        return Round(
            tokens_per_second=sum(answer.completion_tokens for answer in answers) / watch.seconds,
            first_token_p50=percentile(first, 50),
            first_token_p95=percentile(first, 95),
            between_tokens_p50=percentile(between, 50),
            prompt_tokens=sum(answer.prompt_tokens for answer in answers) / len(answers),
            server_cores=watch.cores[name],
            idle_server_cores=sum(
                cores for other, cores in watch.cores.items() if other not in (name, BENCHMARK_PROCESS)
            ),
            client_cores=watch.cores[BENCHMARK_PROCESS],
            other_cores=watch.other_cores,
        )


def model_name(url: str) -> str:
    with urllib.request.urlopen(f"{url}/v1/models", timeout=_MODELS_SECONDS) as response:
        return str(msgspec.json.decode(response.read())["data"][0]["id"])


def _report(result: Result) -> str:
    bars = _SHARED_BARS[result.weights] if result.workload == "shared" else _OTHER_BARS[result.workload]
    rows = [
        ("", "tokens/s", "first token p50", "p95", "between tokens p50"),
        *((name, *_times(figures)) for name, figures in result.medians.items()),
    ]
    cores = [
        ("cores", "server", "idle server", "clients", "others"),
        *((name, *_cores(figures)) for name, figures in result.medians.items()),
    ]
    prompt_tokens = result.medians[OURS].prompt_tokens
    lines = [
        f"{result.workload}: {WORKLOADS[result.workload].description}; {prompt_tokens:.0f} prompt tokens",
        table(rows),
        table(cores),
        _ratio_line("tokens/s, ours / theirs", result.tokens_per_second_ratio, bars.tokens_per_second),
        _ratio_line("first token p95, theirs / ours", result.first_token_p95_ratio, bars.first_token_p95),
    ]
    return "\n".join(lines)


def _times(figures: Round) -> tuple[str, ...]:
    times = (figures.first_token_p50, figures.first_token_p95, figures.between_tokens_p50)
    return (f"{figures.tokens_per_second:.1f}", *map(milliseconds, times))


def _cores(figures: Round) -> tuple[str, ...]:
    cores = (figures.server_cores, figures.idle_server_cores, figures.client_cores, figures.other_cores)
    return tuple(f"{core:.3f}" for core in cores)


def _ratio_line(label: str, ratio: float, bar: TargetRatio | None) -> str:
    return f"  {label}: {ratio:.2f}" + (f" ({bar.verdict(ratio)})" if bar else "")


def _parse() -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="of each server (default: 3)")
    parser.add_argument("--requests", type=int, default=3, help="of each client in a round (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="of either engine (default: 2)")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="default: %(default)s")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--weights", choices=WEIGHTS, default="shipped", help="of either (default: as shipped)")
    weights.add_argument(
        "--rewrite",
        action="store_true",
        help="dragoman may rewrite the file as it would for a user; llama-server as shipped",
    )
    parser.add_argument("--model", type=Path, help="a .gguf file (default: the bundled model)")
    parser.add_argument("--json", type=Path, help="file for the results of every round")
    arguments = parser.parse_args()
    workloads = arguments.workloads.split(",")
    if unknown := [name for name in workloads if name not in WORKLOADS]:
        parser.error(f"unknown workload {unknown[0]}; there are {', '.join(WORKLOADS)}")
    if min(arguments.rounds, arguments.requests, arguments.threads) < 1:
        parser.error("--rounds, --requests and --threads must be at least 1")
    model = arguments.model or bundled().path
    return Options(
        rounds=arguments.rounds,
        requests=arguments.requests,
        threads=arguments.threads,
        workloads=workloads,
        weights="rewritten" if arguments.rewrite else arguments.weights,
        model=model,
        json=arguments.json,
    )


def _prepare_rewritten(model: Path) -> Path:
    """Make the copy that dragoman will serve before any server starts, and return `model`."""
    if faster_file(model, progress=sys.stderr.isatty(), notify=lambda line: print(line, file=sys.stderr)) == model:
        sys.exit(f"benchmarks.engine: {model} is not rewritten on this machine")
    return model


def main() -> None:
    """Measure and print."""
    options = _parse()
    exit_on_sigterm()
    match options.weights:
        case "shipped":
            model = options.model
        case "rewritten":
            model = _prepare_rewritten(options.model)
        case kind:
            model = rewritten(options.model, kind)
    ours = [str(model), "--requantize", "auto" if options.weights == "rewritten" else "never"]
    for name, value in {
        "max-sequences": PARALLEL,
        "kv-cache-tokens": CONTEXT_CELLS,
        "threads": options.threads,
    }.items():
        ours += [f"--{name}", str(value)]
    theirs = LlamaServerOptions(str(model), CONTEXT_CELLS, PARALLEL, options.threads)
    with contextlib.ExitStack() as stack:
        servers = {
            OURS: stack.enter_context(dragoman_server(*ours)),
            THEIRS: stack.enter_context(module_server("benchmarks.llama_server", msgspec.json.encode(theirs).decode())),
        }
        bench = EngineBenchmark(servers, options)
        bench.warm_up()
        results = [bench.measure(workload) for workload in options.workloads]
    print(
        f"{model.name} ({options.weights}): medians of {options.rounds} rounds, {options.requests} requests a client, ",
        end="",
    )
    print(f"{chat_load.COMPLETION_TOKENS} tokens each, {options.threads} threads, {PARALLEL} in parallel\n")
    print("\n\n".join(map(_report, results)))
    write_json(options.json, results)


if __name__ == "__main__":
    try:
        main()
    except UnexpectedResponse as error:
        sys.exit(f"benchmarks.engine: {error}")
