"""Measures what traces cost a worker: none, no request, one in a hundred, all, with the smallest of requests.

    .venv/bin/python -m benchmarks.tracing

benchmarks/README.md describes what is measured, and how to read it.
"""

import argparse
import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import uvloop

from benchmarks.harness.closed_loop import RoundResult, run_clients, summarize_round
from benchmarks.harness.connection import UnexpectedResponse, json_post
from benchmarks.harness.figures import medians, milliseconds, table, write_json
from benchmarks.harness.processes import Server, dragoman_server, exit_on_sigterm
from benchmarks.harness.stopwatch import Stopwatch

CLIENTS = 32
TOKENS = 16
OFF = "off"
CONTROL = "off, another process"
"""Its difference from OFF is that of two processes that do the same."""
NEVER = "0 % sampled"
SAMPLED = "1 % sampled"
ALL = "all"

_PATH = "/v1/chat/completions"
_BODY: dict[str, object] = {
    "model": "echo",
    "messages": [{"role": "user", "content": "x" * TOKENS}],
    "max_tokens": TOKENS,
}
_WARM_UP_SECONDS = 1.0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All results. The keys of both are how much is traced."""

    rounds: dict[str, list[RoundResult]]
    overheads: dict[str, float]
    """The worker's additional processor time per request, as a share of that without traces: medians of both."""
    exports: int
    """Requests with spans that the receiver got."""


class _Receiver(BaseHTTPRequestHandler):
    """Accepts spans and drops them."""

    received = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        type(self).received += 1
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def _receiver() -> Iterator[str]:
    """Run a receiver of spans in a thread, and yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _environments(endpoint: str) -> dict[str, dict[str, str]]:
    return {
        OFF: {},
        CONTROL: {},
        NEVER: {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_TRACES_SAMPLER": "always_off"},
        SAMPLED: {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.01",
        },
        ALL: {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
    }


def _measure(name: str, environment: Mapping[str, str], seconds: float) -> RoundResult:
    """Measure a new process: two that do the same differ by some percent, for as long as they run."""
    with dragoman_server("echo", "--workers", "1", environment=environment) as server:
        _load(name, server, _WARM_UP_SECONDS)
        return _load(name, server, seconds)


def _load(name: str, server: Server, seconds: float) -> RoundResult:
    with Stopwatch({name: server}) as watch:
        log = uvloop.run(run_clients(server.url, json_post(server.url, _PATH, _BODY), CLIENTS, seconds))
    return summarize_round(name, watch, log.latencies)


def _seconds_per_request(figures: RoundResult) -> float:
    return figures.server_cores / figures.rate


def _report(result: Result) -> str:
    rows = [("traced", "requests/s", "server time per request", "more than off", "p50", "p99", "other cores")]
    for name, rounds in result.rounds.items():
        figures = medians(rounds)
        rows.append(
            (
                name,
                f"{figures.rate:,.0f}",
                f"{_seconds_per_request(figures) * 1e6:,.0f} µs",
                f"{result.overheads[name]:.1%}",
                milliseconds(figures.latency_p50),
                milliseconds(figures.latency_p99),
                f"{figures.other_cores:.2f}",
            )
        )
    return f"{CLIENTS} clients, the echo engine, {TOKENS} tokens, not streamed\n{table(rows)}"


def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracing", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6, help="new servers of each kind (default: 6)")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds that each is measured (default: 3)")
    parser.add_argument("--json", type=Path, help="file for the results of every round")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds must be at least 1, --seconds above 0")
    exit_on_sigterm()
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(_receiver())
        environments = _environments(endpoint)
        rounds: dict[str, list[RoundResult]] = {name: [] for name in environments}
        for number in range(options.rounds):
            for name, environment in environments.items():
                rounds[name].append(_measure(name, environment, options.seconds))
                print(f"round {number + 1}: {name} {rounds[name][-1].rate:,.0f} requests/s", file=sys.stderr)
    if not _Receiver.received:
        raise UnexpectedResponse("no span was exported")
    base = _seconds_per_request(medians([*rounds[OFF], *rounds[CONTROL]]))
    overheads = {name: _seconds_per_request(medians(each)) / base - 1 for name, each in rounds.items()}
    result = Result(rounds=rounds, overheads=overheads, exports=_Receiver.received)
    print(f"Medians of {options.rounds} rounds of {options.seconds:g} seconds\n")
    print(_report(result))
    write_json(options.json, [result])


if __name__ == "__main__":
    try:
        main()
    except UnexpectedResponse as error:
        sys.exit(f"benchmarks.tracing: {error}")
