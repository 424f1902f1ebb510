"""What drafts from the prompt gain where answers repeat it, and what they cost where not, beside llama.cpp's server.

    .venv/bin/python -m benchmarks.speculation

What is measured and how to read it: benchmarks/README.md.
"""

import argparse
import contextlib
import random
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop

from benchmarks import chat_load
from benchmarks.engine import CONTEXT_CELLS, PARALLEL, model_name
from benchmarks.harness.connection import UnexpectedResponse
from benchmarks.harness.figures import TargetRatio, medians, milliseconds, percentile, table, write_json
from benchmarks.harness.processes import Server, dragoman_server, exit_on_sigterm, module_server
from benchmarks.harness.stopwatch import Stopwatch
from benchmarks.harness.workloads import Conversations, Prompt, text
from benchmarks.llama_server import LlamaServerOptions
from dragoman.engines.llama.weights.rewriting import faster_file
from dragoman.engines.llama.weights.sources import bundled

COMPLETION_TOKENS = 96
SERVED = "dragoman"
WITHOUT = "dragoman, speculation off"
THEIRS = "llama-server"
THEIR_DRAFTS = "llama-server, ngram-simple"

BARS = {1: TargetRatio(2), 4: TargetRatio(1.3)}
"""Clients → the lowest dragoman / llama-server of tokens/s, where answers repeat their prompts."""

PLAIN_BAR = TargetRatio(0.97)
"""The lowest dragoman / dragoman without speculation, where answers repeat nothing."""

_METRICS_SECONDS = 30
_SYSTEM = "You are a helpful assistant."
_WORDS = """
Alice Boris Carla Daniel Emma Felix Greta Hugo Irene Jonas Karen Luis Maria Nils Olga Peter
Ashford Bristol Denver Exeter Geneva Hamburg Lisbon Madrid Oxford Prague Seattle Toronto
nurse teacher engineer lawyer chef pilot farmer doctor painter tailor
"""
_NAMES, _TOWNS, _JOBS = map(str.split, _WORDS.strip().splitlines())
_PLAIN = (
    "Tell me about {0} and {1}.",
    "Write a story about a {0} in the {1}.",
    "Explain to a child what {0} has to do with {1}.",
    "What do you know about the {0}? Compare it with the {1}.",
)


def _article(source: random.Random) -> str:
    name, other = source.sample(_NAMES, 2)
    town, next_town = source.sample(_TOWNS, 2)
    first, second, third = (text(source, 1) for _ in range(3))
    return (
        f"The council of {town} voted on Tuesday to build a new {first} beside the old {second}. It will cost "
        f"{source.randint(2, 90)} million dollars and will be finished in the spring of {source.randint(2027, 2040)}. "
        f'Mayor {name} Carter said: "This {first} will bring our town closer to {next_town} and save every family an '
        f'hour a week." The old {second}, which was built in {source.randint(1880, 1960)}, was closed in March after '
        f"inspectors found cracks in two of its walls. Since then the people of {town} have had to go to the {third} "
        f"of {next_town}. Shop owner {other} Lee told reporters that sales had fallen by a third."
    )


def _code(source: random.Random) -> str:
    one, other, total, verb = (text(source, 1) for _ in range(4))
    return (
        f"def {total}_of_{one}s({one}s, {other}):\n    {total} = 0\n    for {one} in {one}s:\n"
        f'        price = {one}["price"]\n        quantity = {one}["quantity"]\n'
        f"        {total} = {total} + price * quantity\n    if {other} > 0:\n"
        f"        {total} = {total} - {total} * {other}\n    return {total}\n\n\n"
        f'def {verb}_{one}s({one}s, {other}):\n    for {one} in {one}s:\n        name = {one}["name"]\n'
        f'        price = {one}["price"]\n        print(f"{{name}}: {{price}}")\n'
        f'    print("Sum:", {total}_of_{one}s({one}s, {other}))\n'
    )


def _records(source: random.Random) -> str:
    lines = []
    for number, name in enumerate(source.sample(_NAMES, 6), 1):
        surname, job, town = text(source, 1), source.choice(_JOBS), source.choice(_TOWNS)
        lines.append(f"{number}. {name} {surname.title()}, {job}, {town}, {name.lower()}.{surname}@example.com")
    return "\n".join(lines)


_RECORD_SCHEMA: dict[str, object] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {key: {"type": "string"} for key in ("name", "job", "town", "email")},
        "required": ["name", "job", "town", "email"],
        "additionalProperties": False,
    },
    "minItems": 6,
}


def _edit(source: random.Random) -> Prompt:
    code = _code(source)
    verb = re.findall(r"def (\w+)_", code)[-1]
    return Prompt(
        _SYSTEM,
        f"Here is a Python file:\n\n```python\n{code}```\n\nRename the function {verb} to show. Output the whole file "
        "again with this change.",
    )


def _quote(source: random.Random) -> Prompt:
    return Prompt(_SYSTEM, f"Repeat the following text exactly, word for word:\n\n{_article(source)}")


def _summary(source: random.Random) -> Prompt:
    return Prompt(_SYSTEM, f"Summarize the article with quotes from it.\n\n{_article(source)}")


def _extract(source: random.Random) -> Prompt:
    return Prompt(_SYSTEM, f"Convert this list to JSON:\n\n{_records(source)}", _RECORD_SCHEMA)


def _plain(source: random.Random) -> Prompt:
    return Prompt(_SYSTEM, source.choice(_PLAIN).format(text(source, 1), text(source, 1)))


WORKLOADS: dict[str, Callable[[random.Random], Prompt]] = {
    "edit": _edit,
    "quote": _quote,
    "summary": _summary,
    "extract": _extract,
    "plain": _plain,
}


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One server's figures in one round, or their medians."""

    tokens_per_second: float
    first_token_p50: float
    """In seconds."""
    processor_seconds_per_token: float
    """Of all processes of the server, prompts included. With one thread it hardly depends on other processes."""
    drafted_per_token: float
    """Drafted tokens for each generated one."""
    acceptance: float
    """The part of drafted tokens that were generated. 0 if there were none."""
    other_cores: float
    """Cores used by other processes on the machine."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One workload with one number of clients. The keys are the servers' names."""

    workload: str
    clients: int
    rounds: dict[str, list[Round]]
    medians: dict[str, Round]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The command line."""

    rounds: int
    requests: int
    threads: int
    clients: list[int]
    workloads: list[str]
    json: Path | None


def measure(
    servers: dict[str, Server], models: dict[str, str], workload: str, clients: int, options: Options
) -> Result:
    """Run all rounds of one workload, alternating between the servers. Raises UnexpectedResponse."""
    rounds: dict[str, list[Round]] = {name: [] for name in servers}
    for number in range(options.rounds):
        source = random.Random(f"{workload} {clients} {number}")
        conversations = [[WORKLOADS[workload](source) for _ in range(options.requests)] for _ in range(clients)]
        for name, server in servers.items():
            rounds[name].append(_run(server, models[name], conversations))
            rate = rounds[name][-1].tokens_per_second
            print(f"{workload}, {clients} clients, round {number + 1}: {name} {rate:.1f} tokens/s", file=sys.stderr)
    return Result(
        workload=workload,
        clients=clients,
        rounds=rounds,
        medians={name: medians(figures) for name, figures in rounds.items()},
    )


def _run(server: Server, model: str, conversations: Conversations) -> Round:
    before = _draft_counts(server)
    with Stopwatch({"server": server}) as watch:
        answers = uvloop.run(chat_load.run_clients(server.url, model, conversations, COMPLETION_TOKENS))
    drafted, accepted = (after - earlier for after, earlier in zip(_draft_counts(server), before, strict=True))
    tokens = sum(answer.completion_tokens for answer in answers)
    return Round(
        tokens_per_second=tokens / watch.seconds,
        first_token_p50=percentile([answer.seconds_to_first_token for answer in answers], 50),
        processor_seconds_per_token=watch.cores["server"] * watch.seconds / tokens,
        drafted_per_token=drafted / tokens,
        acceptance=accepted / drafted if drafted else 0.0,
        other_cores=watch.other_cores,
    )


def _draft_counts(server: Server) -> tuple[float, float]:
    """Return how many tokens a dragoman has drafted, and how many of them were accepted. Zeros for llama-server."""
    try:
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=_METRICS_SECONDS) as response:
            lines = response.read().decode()
    except urllib.error.HTTPError:
        return 0.0, 0.0
    drafted, accepted = (
        sum(float(value) for value in re.findall(rf"^dragoman_{name}_total{{.*}} (\S+)$", lines, re.MULTILINE))
        for name in ("drafted_tokens", "accepted_draft_tokens")
    )
    return drafted, accepted


def _report(result: Result) -> str:
    ours, without, theirs = (result.medians[name].tokens_per_second for name in (SERVED, WITHOUT, THEIRS))
    spent, spent_without, spent_there = (
        result.medians[name].processor_seconds_per_token for name in (SERVED, WITHOUT, THEIRS)
    )
    rows = [
        ("", "tokens/s", "processor per token", "first token p50", "drafted per token", "accepted", "others"),
        *(
            (
                name,
                f"{figures.tokens_per_second:.1f}",
                milliseconds(figures.processor_seconds_per_token),
                milliseconds(figures.first_token_p50),
                f"{figures.drafted_per_token:.2f}",
                f"{figures.acceptance:.0%}",
                f"{figures.other_cores:.2f}",
            )
            for name, figures in result.medians.items()
        ),
    ]
    repeats = result.workload != "plain"
    bar = BARS.get(result.clients) if repeats else None
    lines = [
        f"{result.workload}, {result.clients} clients",
        table(rows),
        f"  dragoman / llama-server: {ours / theirs:.2f}" + (f" ({bar.verdict(ours / theirs)})" if bar else ""),
        f"  with / without: {ours / without:.2f}" + ("" if repeats else f" ({PLAIN_BAR.verdict(ours / without)})"),
        f"  by processor time: {spent_there / spent:.2f} and {spent_without / spent:.2f}",
    ]
    return "\n".join(lines)


def _parse() -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speculation", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="of each server (default: 3)")
    parser.add_argument("--requests", type=int, default=3, help="of each client in a round (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="of each engine (default: 2)")
    parser.add_argument("--clients", default="1,4", help="default: %(default)s")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="file for the results of every round")
    arguments = parser.parse_args()
    workloads = arguments.workloads.split(",")
    if unknown := [name for name in workloads if name not in WORKLOADS]:
        parser.error(f"unknown workload {unknown[0]}; there are {', '.join(WORKLOADS)}")
    return Options(
        rounds=arguments.rounds,
        requests=arguments.requests,
        threads=arguments.threads,
        clients=[int(number) for number in arguments.clients.split(",")],
        workloads=workloads,
        json=arguments.json,
    )


def main() -> None:
    """Measure and print."""
    options = _parse()
    exit_on_sigterm()
    shipped = bundled().path
    faster_file(shipped, progress=False, notify=lambda line: print(line, file=sys.stderr))
    sizes = {"max-sequences": PARALLEL, "kv-cache-tokens": CONTEXT_CELLS, "threads": options.threads}
    arguments = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    theirs = LlamaServerOptions(str(shipped), CONTEXT_CELLS, PARALLEL, options.threads)
    peers = {THEIRS: theirs, THEIR_DRAFTS: msgspec.structs.replace(theirs, drafts_ngrams=True)}
    with contextlib.ExitStack() as stack:
        servers = {
            SERVED: stack.enter_context(dragoman_server(str(shipped), *arguments)),
            WITHOUT: stack.enter_context(
                dragoman_server(str(shipped), *arguments, environment={"DRAGOMAN_ENGINE_SPECULATION": "off"})
            ),
        }
        for name, peer in peers.items():
            argument = msgspec.json.encode(peer).decode()
            servers[name] = stack.enter_context(module_server("benchmarks.llama_server", argument))
        models = {name: model_name(server.url) for name, server in servers.items()}
        for name, server in servers.items():  # No measured request is a server's first.
            _run(server, models[name], [[_plain(random.Random(name))]])
        results = [
            measure(servers, models, workload, clients, options)
            for clients in options.clients
            for workload in options.workloads
        ]
    print(f"{shipped.name}: medians of {options.rounds} rounds, {options.requests} requests a client, ", end="")
    print(f"{COMPLETION_TOKENS} tokens each, {options.threads} threads\n")
    print("\n\n".join(map(_report, results)))
    write_json(options.json, results)


if __name__ == "__main__":
    try:
        main()
    except UnexpectedResponse as error:
        sys.exit(f"benchmarks.speculation: {error}")
