"""Clients that each ask the same question again as soon as it is answered, and what that takes of a server."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from benchmarks.connection import BadAnswer, Connection
from benchmarks.figures import percentile
from benchmarks.stopwatch import OWN, Stopwatch

_LAST_ANSWERS_SECONDS = 120


class Round(msgspec.Struct, frozen=True):
    """One server's figures in one round, or their medians. Times are in seconds, shares in cores."""

    rate: float
    """Answers a second, or what is counted in them."""
    latency_p50: float
    """Of a whole answer."""
    latency_p99: float
    server_cores: float
    client_cores: float
    stranger_cores: float
    """What anybody else on the machine took."""


class Answers(NamedTuple):
    """What clients were given."""

    latencies: list[float]
    """The seconds each answer took."""
    sizes: set[int]
    """In bytes, of the bodies."""


def round_of(name: str, watch: Stopwatch, latencies: Sequence[float], units: int = 1) -> Round:
    """Of a server that gave answers while it was watched, each of them with so many units to count."""
    return Round(
        rate=len(latencies) * units / watch.seconds,
        latency_p50=percentile(latencies, 50),
        latency_p99=percentile(latencies, 99),
        server_cores=watch.cores[name],
        client_cores=watch.cores[OWN],
        stranger_cores=watch.stranger_cores,
    )


async def ask(url: str, request: bytes, clients: int, seconds: float) -> Answers:
    """Let clients ask, who begin no request after `seconds`. Raises BadAnswer."""
    deadline = time.perf_counter() + seconds
    loops = (_closed_loop(url, request, deadline) for _ in range(clients))
    try:
        async with asyncio.timeout(seconds + _LAST_ANSWERS_SECONDS):
            given = await asyncio.gather(*loops)
    except TimeoutError:
        raise BadAnswer(f"answers were still missing {_LAST_ANSWERS_SECONDS} seconds after the round") from None
    latencies = itertools.chain.from_iterable(answers.latencies for answers in given)
    return Answers(list(latencies), {size for answers in given for size in answers.sizes})


async def _closed_loop(url: str, request: bytes, deadline: float) -> Answers:
    answers = Answers([], set())
    received = 0

    def count(body: bytes) -> None:
        nonlocal received
        received += len(body)

    connection = await Connection.open(url)
    try:
        while (began := time.perf_counter()) < deadline:
            received = 0
            await connection.exchange(request, count)
            answers.latencies.append(time.perf_counter() - began)
            answers.sizes.add(received)
    finally:
        connection.close()
    return answers
