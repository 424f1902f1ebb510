"""Three upstreams that fail at random moments, dragoman with accounts in front of them, and clients of it."""

import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Self

import httpx
import msgspec

from dragoman.accounts.process.ledger_thread import LedgerThread
from dragoman.dialects.http.context import HttpOptions
from dragoman.engines.upstream.engine import UpstreamEngine
from dragoman.engines.upstream.http_client import UpstreamClient
from dragoman.engines.upstream.http_request import UpstreamAddress
from dragoman.engines.upstream.time_limits import UpstreamTimeouts
from dragoman.gateway.ledger_connection import AccountsOptions
from dragoman.gateway.routing.catalog import Catalog, Deployment
from dragoman.gateway.routing.replica import Replica
from dragoman.gateway.routing.retry_budget import MIN_RETRIES_PER_SECOND, RETRY_SHARE, WINDOW_SECONDS
from dragoman.gateway.routing.router import Router
from dragoman.gateway.routing.router_options import RouterOptions
from dragoman.server.accounting import AccountingServices
from dragoman.server.app import build_app
from tests.support.metered import AccountFixture
from tests.support.ports import free_port
from tests.support.processes.chaotic_upstream import WORDS
from tests.support.served_apps import serving
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

UPSTREAMS = 3
FIRST_TOKEN_SECONDS = 1.0
DEADLINE_SECONDS = 8.0
"""That clients send in x-request-timeout."""

SLACK_SECONDS = 20.0
"""How late an error may arrive on a busy machine."""

MAX_ATTEMPTS = 3
MAX_SUFFERING = 2
"""Upstreams that suffer at the same time. Those that did are left out for some seconds more."""

MAX_PAUSE_SECONDS = 0.8
"""Between two faults."""

FAULTS = ("kill", "pause", "reset", "slow")
TEXT = "".join(WORDS)
_SCRIPT = Path(__file__).parent / "processes" / "chaotic_upstream.py"
_FAILURES = {408, 429, 500, 502, 503, 504}


class ChaoticUpstream:
    """The process of an upstream, always on the same port."""

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process = self._start()

    async def suffer(self, fault: str, seconds: float, client: httpx.AsyncClient) -> None:
        """Suffer a fault, which ends after these seconds."""
        match fault:
            case "kill":
                self.kill()
                await asyncio.sleep(seconds)
                self._process = await asyncio.to_thread(self._start)
            case "pause":
                self._process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(seconds)
                self._process.send_signal(signal.SIGCONT)
            case _:
                await self.ask(client, fault)

    async def ask(self, client: httpx.AsyncClient, path: str) -> str:
        """Ask at one of its paths; a reset connection answers nothing."""
        with contextlib.suppress(httpx.TransportError):
            return (await client.get(f"{self.url}/{path}", headers={"connection": "close"})).text
        return ""

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-S", str(_SCRIPT), str(self._port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process


class ChaosReport(msgspec.Struct, kw_only=True):
    """What clients have seen."""

    outcomes: Counter[str] = msgspec.field(default_factory=Counter)
    slowest_seconds: float = 0.0
    violations: list[str] = msgspec.field(default_factory=list)
    requests: int = 0
    attempts: int = 0
    seconds: float = 0.0

    @property
    def max_attempts(self) -> float:
        """The attempts that the retry budget allows for these requests."""
        windows = self.seconds + WINDOW_SECONDS
        return self.requests * (1 + RETRY_SHARE) + MIN_RETRIES_PER_SECOND * windows


class Chaos:
    """The whole set-up, and the load on it."""

    def __init__(self, url: str, router: Router, upstreams: list[ChaoticUpstream], key: str, seed: int) -> None:
        self.report = ChaosReport()
        self.router = router
        self._url = url
        self._upstreams = upstreams
        self._key = key
        self._random = random.Random(seed)
        self._control = httpx.AsyncClient(timeout=TEST_TIMEOUT_SECONDS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._control.aclose()

    async def run_round(self, clients: int, faults: int) -> None:
        """Let the clients work while the upstreams suffer so many faults; then all clients leave at once."""
        began_at = time.monotonic()
        async with httpx.AsyncClient(
            base_url=self._url, timeout=TEST_TIMEOUT_SECONDS, limits=httpx.Limits(max_connections=None)
        ) as client:
            tasks = [asyncio.create_task(self._ask_for_ever(client)) for _ in range(clients)]
            await self._cause(faults)
            await asyncio.sleep(0.3)  # Some answers run at upstreams that are well again.
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        self.report.seconds += time.monotonic() - began_at
        self.report.violations += [repr(each) for each in ended if not isinstance(each, asyncio.CancelledError)]
        await self._check_rest()

    async def _cause(self, faults: int) -> None:
        """Let the upstreams suffer faults at random moments, each of them one at a time."""
        suffering: dict[ChaoticUpstream, asyncio.Task[None]] = {}
        for _ in range(faults):
            await asyncio.sleep(self._random.uniform(0.0, MAX_PAUSE_SECONDS))
            if len(suffering) == MAX_SUFFERING:
                await asyncio.wait(suffering.values(), return_when=asyncio.FIRST_COMPLETED)
            suffering = {upstream: task for upstream, task in suffering.items() if not task.done()}
            upstream = self._random.choice([each for each in self._upstreams if each not in suffering])
            fault = self._random.choice(FAULTS)
            seconds = self._random.uniform(0.1, 1.5)
            suffering[upstream] = asyncio.create_task(upstream.suffer(fault, seconds, self._control))
        await asyncio.gather(*suffering.values())

    async def _check_rest(self) -> None:
        """Wait until nobody works on for the clients that left."""
        ends_at = time.monotonic() + TEST_TIMEOUT_SECONDS
        while (found := await self._work_for_nobody()) and time.monotonic() < ends_at:  # noqa: ASYNC110 - nobody says so
            await asyncio.sleep(0.05)
        self.report.violations += found

    async def _work_for_nobody(self) -> list[str]:
        running = [await upstream.ask(self._control, "running") for upstream in self._upstreams]
        in_flight = {name: self.router.leases.in_flight(name) for name in self.router_names}
        found = [f"an upstream works on {answers} answers for nobody" for answers in running if answers != "0"]
        found += [f"{name} has {each} in flight for nobody" for name, each in in_flight.items() if any(each)]
        if self.router.leases.waiting:
            found.append("somebody waits for a place who has left")
        return found

    async def count_attempts(self) -> None:
        """Read the attempts from the metrics."""
        headers = {"authorization": f"Bearer {self._key}"}
        text = (await self._control.get(f"{self._url}/metrics", headers=headers)).text
        names = ("dragoman_upstream_requests_total{", "dragoman_upstream_attempts_total{")
        self.report.attempts = sum(int(float(line.split()[-1])) for line in text.splitlines() if line.startswith(names))

    @property
    def router_names(self) -> list[str]:
        """The names of the replicas."""
        return [f"echo/{number}" for number in range(UPSTREAMS)]

    async def _ask_for_ever(self, client: httpx.AsyncClient) -> None:
        while True:
            await self._ask(client, stream=self._random.random() < 0.5, leaves=self._random.random() < 0.1)

    async def _ask(self, client: httpx.AsyncClient, *, stream: bool, leaves: bool) -> None:
        body = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}], "stream": stream, "max_tokens": 32}
        headers = {"authorization": f"Bearer {self._key}", "x-request-timeout": str(DEADLINE_SECONDS)}
        self.report.requests += 1
        began_at = time.monotonic()
        try:
            async with asyncio.timeout(self._random.uniform(0.0, 0.4) if leaves else None):
                response = await client.post("/v1/chat/completions", json=body, headers=headers)
        except TimeoutError:
            self.report.outcomes["left"] += 1
            return
        seconds = time.monotonic() - began_at
        self.report.slowest_seconds = max(self.report.slowest_seconds, seconds)
        if seconds > DEADLINE_SECONDS + SLACK_SECONDS:
            self.report.violations.append(f"a client waited for {seconds:.1f} s")
        self._judge(response, stream=stream)

    def _judge(self, response: httpx.Response, *, stream: bool) -> None:
        if response.status_code != 200:
            is_proper = response.status_code in _FAILURES and "error" in response.json()
            outcome = str(response.status_code) if is_proper else "improper"
        elif not stream:
            text = response.json()["choices"][0]["message"]["content"]
            outcome = "whole" if text == TEXT else "improper"
        else:
            outcome = _judge_stream(response.text)
        self.report.outcomes[outcome] += 1
        if outcome == "improper":
            self.report.violations.append(f"{response.status_code}: {response.text[-300:]}")


def _judge_stream(frames: str) -> str:
    events = [frame.removeprefix("data: ") for frame in frames.split("\n\n") if frame.startswith("data: ")]
    if events[-1] != "[DONE]":
        return "broken off" if "error" in msgspec.json.decode(events[-1]) else "improper"
    deltas = [msgspec.json.decode(event)["choices"] for event in events[:-1]]
    text = "".join(choice["delta"].get("content") or "" for choices in deltas for choice in choices)
    return "whole" if text == TEXT else "improper"


@contextlib.asynccontextmanager
async def chaos(account_fixture: AccountFixture, journals: Path, seed: int) -> AsyncGenerator[Chaos]:
    """Run the upstreams and dragoman."""
    upstreams = [ChaoticUpstream() for _ in range(UPSTREAMS)]
    timeouts = UpstreamTimeouts(connect=0.5, first_token=FIRST_TOKEN_SECONDS, between_tokens=FIRST_TOKEN_SECONDS)
    replicas = tuple(
        Replica(
            f"echo/{number}",
            UpstreamEngine(
                f"echo/{number}",
                UpstreamClient(UpstreamAddress.parse(upstream.url), timeouts=timeouts),
                model="echo",
                kind="openai",
            ),
            is_upstream=True,
            concurrency=32,
        )
        for number, upstream in enumerate(upstreams)
    )
    deployment = Deployment(
        name="echo", replicas=replicas, routing=RouterOptions(policy="least"), max_attempts=MAX_ATTEMPTS
    )
    assert deployment.router is not None
    accounting = AccountingServices(
        AccountsOptions(
            database=account_fixture.database, journals=journals, timeout_seconds=30, transport=LedgerThread
        )
    )
    options = HttpOptions(max_body_bytes=10_000, keep_alive_seconds=15)
    app = build_app(Catalog([deployment]), options, metrics_directory=None, accounting=accounting)
    try:
        async with (
            serving(app) as url,
            Chaos(url, deployment.router, upstreams, account_fixture.new_key(), seed) as load,
        ):
            yield load
            await load.count_attempts()
    finally:
        for upstream in upstreams:
            upstream.kill()
