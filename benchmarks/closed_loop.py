"""Clients that each ask the same question again as soon as it is answered, and what that takes of a server."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from benchmarks.connection import Connection, UnexpectedResponse
from benchmarks.figures import percentile
from benchmarks.stopwatch import BENCHMARK_PROCESS, Stopwatch

_DRAIN_TIMEOUT_SECONDS = 120


class RoundResult(msgspec.Struct, frozen=True):
    """One server's figures in one round, or their medians. Times are in seconds, shares in cores."""

    rate: float
    """Answers a second, or what is counted in them."""
    latency_p50: float
    """Of a whole answer."""
    latency_p99: float
    server_cores: float
    client_cores: float
    other_cores: float
    """What anybody else on the machine took."""


class ResponseLog(NamedTuple):
    """What clients were given."""

    latencies: list[float]
    """The seconds each answer took."""
    sizes: set[int]
    """In bytes, of the bodies."""


def summarize_round(name: str, watch: Stopwatch, latencies: Sequence[float], units: int = 1) -> RoundResult:
    """Of a server that gave answers while it was watched, each of them with so many units to count."""
    return RoundResult(
        rate=len(latencies) * units / watch.seconds,
        latency_p50=percentile(latencies, 50),
        latency_p99=percentile(latencies, 99),
        server_cores=watch.cores[name],
        client_cores=watch.cores[BENCHMARK_PROCESS],
        other_cores=watch.other_cores,
    )


async def run_clients(url: str, request: bytes, clients: int, seconds: float) -> ResponseLog:
    """Let clients ask, who begin no request after `seconds`. Raises UnexpectedResponse."""
    deadline = time.perf_counter() + seconds
    loops = (_closed_loop(url, request, deadline) for _ in range(clients))
    try:
        async with asyncio.timeout(seconds + _DRAIN_TIMEOUT_SECONDS):
            logs = await asyncio.gather(*loops)
    except TimeoutError:
        raise UnexpectedResponse(
            f"answers were still missing {_DRAIN_TIMEOUT_SECONDS} seconds after the round"
        ) from None
    latencies = itertools.chain.from_iterable(answers.latencies for answers in logs)
    return ResponseLog(list(latencies), {size for answers in logs for size in answers.sizes})


async def _closed_loop(url: str, request: bytes, deadline: float) -> ResponseLog:
    answers = ResponseLog([], set())
    received = 0

    def count(body: bytes) -> None:
        nonlocal received
        received += len(body)

    connection = await Connection.open(url)
    try:
        while (started_at := time.perf_counter()) < deadline:
            received = 0
            await connection.send(request, count)
            answers.latencies.append(time.perf_counter() - started_at)
            answers.sizes.add(received)
    finally:
        connection.close()
    return answers
