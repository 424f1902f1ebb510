"""Measures the cost of dragoman's HTTP layer: the echo engine, and a bare Starlette handler with the same responses.

    .venv/bin/python -m benchmarks.http

benchmarks/README.md describes what is measured, and how to read it.
"""

import argparse
import asyncio
import contextlib
import itertools
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

from benchmarks.bare_app import RecordedResponses
from benchmarks.harness.closed_loop import RoundResult, run_clients, summarize_round
from benchmarks.harness.connection import Connection, UnexpectedResponse, json_post
from benchmarks.harness.figures import medians, milliseconds, table, write_json
from benchmarks.harness.processes import Server, dragoman_server, exit_on_sigterm, module_server
from benchmarks.harness.stopwatch import Stopwatch

CONNECTIONS = 16
STREAM_TOKENS = 256
OURS = "dragoman"
THEIRS = "bare Starlette"

_PATH = "/v1/chat/completions"
_FRAME_END = b"\n\n"
_WARM_UP_SECONDS = 1.0
_RESPONSE_TIMEOUT_SECONDS = 120


def _request(content: str) -> dict[str, object]:
    return {"model": "echo", "messages": [{"role": "user", "content": content}]}


_BODY = _request("ping")
# The echo engine's tokens are bytes, so the message must be as long as the answer for each token to have text.
_STREAM_BODY = {**_request("x" * STREAM_TOKENS), "max_tokens": STREAM_TOKENS, "stream": True}


class ResponseKind(NamedTuple):
    """One kind of request."""

    description: str
    body: dict[str, object]
    unit: str
    units: int
    """Units in one response."""


KINDS = {
    "completions": ResponseKind(f"{CONNECTIONS} keep-alive connections, not streamed", _BODY, "requests/s", 1),
    "streams": ResponseKind(
        f"{CONNECTIONS} keep-alive connections, streams of {STREAM_TOKENS} tokens",
        _STREAM_BODY,
        "tokens/s",
        STREAM_TOKENS,
    ),
}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The results of one kind of request. The keys are the servers' names."""

    kind: str
    rounds: dict[str, list[RoundResult]]
    medians: dict[str, RoundResult]
    rate_ratio: float
    """Rate, dragoman / bare Starlette."""
    server_time_ratio: float
    """Processor time of one response, dragoman / bare Starlette."""


async def _latencies(url: str, body: dict[str, object], seconds: float) -> list[float]:
    """Return the seconds that each response took. All must have the same size."""
    latencies, sizes = await run_clients(url, json_post(url, _PATH, body), CONNECTIONS, seconds)
    if len(sizes) > 1:
        raise UnexpectedResponse(f"the same request got responses of {sorted(sizes)} bytes")
    return latencies


async def _answer(url: str, body: dict[str, object]) -> bytes:
    pieces: list[bytes] = []
    connection = await Connection.open(url)
    try:
        async with asyncio.timeout(_RESPONSE_TIMEOUT_SECONDS):
            await connection.send(json_post(url, _PATH, body), pieces.append)
    finally:
        connection.close()
    return b"".join(pieces)


async def _record(url: str) -> RecordedResponses:
    """Record the responses that the bare server sends."""
    completion = await _answer(url, _BODY)
    stream = await _answer(url, _STREAM_BODY)
    frames = [frame + _FRAME_END for frame in stream.split(_FRAME_END) if frame]
    if len(frames) < STREAM_TOKENS:
        raise UnexpectedResponse(f"a stream of {STREAM_TOKENS} tokens had {len(frames)} frames")
    return RecordedResponses(completion, frames)


def _measure(name: str, servers: dict[str, Server], rounds: int, seconds: float) -> Result:
    """Run all rounds of one kind. The servers take turns."""
    kind = KINDS[name]
    done: dict[str, list[RoundResult]] = {server_name: [] for server_name in servers}
    for number in range(rounds):
        for server_name in servers:
            done[server_name].append(_run(server_name, servers, kind, seconds))
            print(
                f"{name}, round {number + 1}: {server_name} {done[server_name][-1].rate:,.0f} {kind.unit}",
                file=sys.stderr,
            )
    ours, theirs = medians(done[OURS]), medians(done[THEIRS])
    return Result(
        kind=name,
        rounds=done,
        medians={OURS: ours, THEIRS: theirs},
        rate_ratio=ours.rate / theirs.rate,
        server_time_ratio=(ours.server_cores / ours.rate) / (theirs.server_cores / theirs.rate),
    )


def _run(server_name: str, servers: dict[str, Server], kind: ResponseKind, seconds: float) -> RoundResult:
    with Stopwatch(servers) as watch:
        latencies = uvloop.run(_latencies(servers[server_name].url, kind.body, seconds))
    return summarize_round(server_name, watch, latencies, kind.units)


def _report(result: Result) -> str:
    kind = KINDS[result.kind]
    rows = [
        ("", kind.unit, "response p50", "p99", "server time per response"),
        *((server_name, *_times(figures, kind)) for server_name, figures in result.medians.items()),
    ]
    cores = [
        ("cores", "server", "clients", "others"),
        *((server_name, *_cores(figures)) for server_name, figures in result.medians.items()),
    ]
    lines = [
        f"{result.kind}: {kind.description}",
        table(rows),
        table(cores),
        f"  {kind.unit}, ours / theirs: {result.rate_ratio:.2f}",
        f"  server time per response, ours / theirs: {result.server_time_ratio:.2f}",
    ]
    return "\n".join(lines)


def _times(figures: RoundResult, kind: ResponseKind) -> tuple[str, ...]:
    server_seconds = figures.server_cores / figures.rate * kind.units
    times = (figures.latency_p50, figures.latency_p99)
    return (f"{figures.rate:,.0f}", *map(milliseconds, times), f"{server_seconds * 1e6:,.0f} µs")


def _cores(figures: RoundResult) -> tuple[str, ...]:
    return tuple(f"{core:.2f}" for core in (figures.server_cores, figures.client_cores, figures.other_cores))


def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each server (default: 3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of a round (default: 5)")
    parser.add_argument("--json", type=Path, help="file for the results of every round")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds must be at least 1, --seconds above 0")
    exit_on_sigterm()
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(dragoman_server("echo", "--workers", "1"))
        recording = Path(stack.enter_context(tempfile.TemporaryDirectory()), "recording")
        recording.write_bytes(msgspec.msgpack.encode(uvloop.run(_record(ours.url))))
        theirs = stack.enter_context(module_server("benchmarks.bare_app", str(recording)))
        servers = {OURS: ours, THEIRS: theirs}
        for kind, server_name in itertools.product(KINDS.values(), servers):
            _run(server_name, servers, kind, _WARM_UP_SECONDS)
        results = [_measure(name, servers, options.rounds, options.seconds) for name in KINDS]
    print(f"Medians of {options.rounds} rounds of {options.seconds:g} seconds\n")
    print("\n\n".join(map(_report, results)))
    write_json(options.json, results)


if __name__ == "__main__":
    try:
        main()
    except UnexpectedResponse as error:
        sys.exit(f"benchmarks.http: {error}")
