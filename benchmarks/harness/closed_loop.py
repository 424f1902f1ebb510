"""Closed-loop clients, which repeat a request as soon as it is answered, and their measurements."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from benchmarks.harness.connection import Connection, UnexpectedResponse
from benchmarks.harness.figures import percentile
from benchmarks.harness.stopwatch import BENCHMARK_PROCESS, Stopwatch

_DRAIN_TIMEOUT_SECONDS = 120


class RoundResult(msgspec.Struct, frozen=True, kw_only=True):
    """One server's measurements in one round, or their medians. Times are in seconds."""

    rate: float
    """Responses per second, or the units counted in them."""
    latency_p50: float
    """Of a complete response."""
    latency_p99: float
    server_cores: float
    client_cores: float
    other_cores: float
    """Cores that other processes on the machine used."""


class ResponseLog(NamedTuple):
    """Measurements of the clients."""

    latencies: list[float]
    """Seconds that each response took."""
    sizes: set[int]
    """Sizes of the bodies in bytes."""


def summarize_round(name: str, watch: Stopwatch, latencies: Sequence[float], units: int = 1) -> RoundResult:
    """Return the measurements of a server that `watch` covered. Each response counts as `units`."""
    return RoundResult(
        rate=len(latencies) * units / watch.seconds,
        latency_p50=percentile(latencies, 50),
        latency_p99=percentile(latencies, 99),
        server_cores=watch.cores[name],
        client_cores=watch.cores[BENCHMARK_PROCESS],
        other_cores=watch.other_cores,
    )


async def run_clients(url: str, request: bytes, clients: int, seconds: float) -> ResponseLog:
    """Run the clients. They start no request after `seconds`. Raises UnexpectedResponse."""
    deadline = time.perf_counter() + seconds
    loops = (_closed_loop(url, request, deadline) for _ in range(clients))
    try:
        async with asyncio.timeout(seconds + _DRAIN_TIMEOUT_SECONDS):
            logs = await asyncio.gather(*loops)
    except TimeoutError:
        raise UnexpectedResponse(
            f"responses were still missing {_DRAIN_TIMEOUT_SECONDS} seconds after the round"
        ) from None
    latencies = itertools.chain.from_iterable(log.latencies for log in logs)
    return ResponseLog(list(latencies), {size for log in logs for size in log.sizes})


async def _closed_loop(url: str, request: bytes, deadline: float) -> ResponseLog:
    log = ResponseLog([], set())
    received = 0

    def count(body: bytes) -> None:
        nonlocal received
        received += len(body)

    connection = await Connection.open(url)
    try:
        while (started_at := time.perf_counter()) < deadline:
            received = 0
            await connection.send(request, count)
            log.latencies.append(time.perf_counter() - started_at)
            log.sizes.add(received)
    finally:
        connection.close()
    return log
