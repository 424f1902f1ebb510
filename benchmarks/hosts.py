"""Two or three machines that are cut off, lose power and lose their database under load: is any promise broken?

    .venv/bin/python -m benchmarks.hosts

Machines are namespaces of this one, so that it needs root; where they cannot be made, nothing is done. dragoman on
each, nginx before them and one PostgreSQL have the settings of deploy/. Clients chat through nginx, queue requests,
read their streams from one machine after another, and ask at a limit of 100 requests a minute. Exit status 1: a promise
was broken.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from benchmarks.harness.processes import exit_on_sigterm
from dragoman.accounts.administration.keys import KeyRules, list_keys
from tests.support.hosts.chats import ChatClients
from tests.support.hosts.cluster import (
    ANYWHERE,
    HERE,
    REQUESTS_PER_MINUTE,
    WITNESSED,
    Cluster,
    running_cluster,
)
from tests.support.hosts.network import DATA, FRONT, SLOW_LINK, missing
from tests.support.hosts.queued import QueuedRequests
from tests.support.hosts.servers import EDGE_URL, Host
from tests.support.hosts.witness import Witness, running_witness
from tests.support.jobs.queue_harness import wait_until

CLIENTS = 12
PACE_SECONDS = 0.4
"""Between requests of the key with a limit, which therefore always asks for more than it gets."""

JOBS_PER_FAULT = 6
WORDS = {HERE: range(16, 40), WITNESSED: range(80, 100)}
"""Of jobs. Those of the witness, four words a second, run for longer than a lease and the longest fault."""

_SHORT_SECONDS, _LONG_SECONDS = 8.0, 22.0
"""Shorter and longer than the lease of a job."""

_QUIET_SECONDS = 3.0
_SETTLE_SECONDS = 30.0


class Run:
    """The load on a cluster, and the faults."""

    def __init__(
        self, cluster: Cluster, witness: Witness, chats: ChatClients, queued: QueuedRequests, seed: int
    ) -> None:
        self.cluster = cluster
        self.chats = chats
        self.unheard: dict[str, list[float]] = defaultdict(list)
        """When machines lost power or their connection to the witness, by address."""
        self._witness = witness
        self._queued = queued
        self._random = random.Random(seed)
        self._submitted = 0

    async def suffer(self, name: str) -> dict[str, Any]:
        """Cause a fault under load and wait until all machines are ready again. Returns what clients have seen."""
        fault = FAULTS[name]
        before, began_at = Counter(self.chats.outcomes), time.monotonic()
        self.chats.may_cut = name in MAY_CUT
        submitting = asyncio.create_task(self._submit(JOBS_PER_FAULT))
        await asyncio.sleep(1.5)  # Jobs and chats run.
        host = self._random.choice(self.cluster.hosts)
        await fault(self, host)
        healed_at = time.monotonic()
        await self.cluster.wait_until_ready()
        seconds = time.monotonic() - healed_at
        await submitting
        await self._queued.finish()
        self.chats.may_cut = False
        await asyncio.sleep(_QUIET_SECONDS)
        outcomes = self.chats.outcomes - before
        return {
            "fault": name,
            "seconds": round(time.monotonic() - began_at),
            "ready_after": round(seconds, 1),
            "chats": dict(outcomes.most_common()),
        }

    def violations(self) -> list[str]:
        """Return what no client may see, and what ran twice."""
        return [*self.chats.violations, *self._witness.overlaps(self.unheard)]

    async def _submit(self, jobs: int) -> None:
        for _ in range(jobs):
            self._submitted += 1
            number = self._submitted
            model = WITNESSED if number % 2 else HERE
            text = f"Job {number}: " + " ".join(f"word{word}" for word in range(self._random.choice(WORDS[model])))
            body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 400}
            await self._queued.submit(body, number, reads=model == HERE)


async def cut_off_from_database(run: Run, host: Host, seconds: float) -> None:
    """Let whatever a machine sends to the database, and gets from it, be lost."""
    await _disconnected(run, host, [DATA], seconds)


async def cut_off_from_others(run: Run, host: Host, seconds: float) -> None:
    """The same between the machine, the proxy and the other machines."""
    await _disconnected(run, host, [FRONT], seconds)


async def isolate(run: Run, host: Host, seconds: float) -> None:
    """Both."""
    await _disconnected(run, host, [FRONT, DATA], seconds)


async def lose_power(run: Run, host: Host, seconds: float) -> None:
    """Let a machine lose power, and come back with its disk."""
    run.unheard[host.machine.address(FRONT)].append(time.monotonic())
    await asyncio.to_thread(host.lose)
    await asyncio.sleep(seconds)
    host.restore()


async def slow_down_database(run: Run, _host: Host, seconds: float) -> None:
    """Let the database have a slow line, and slow commits."""
    with run.cluster.network.slow_database(), run.cluster.database.slow_commits():
        await asyncio.sleep(seconds)


async def pause_database(run: Run, _host: Host, seconds: float) -> None:
    """Let the database hang."""
    run.cluster.database.pause()
    await asyncio.sleep(seconds)
    run.cluster.database.resume()


async def cut_off_database(run: Run, _host: Host, seconds: float) -> None:
    """Let the database be unreachable for all."""
    run.cluster.network.disconnect(run.cluster.network.database, DATA)
    await asyncio.sleep(seconds)
    run.cluster.network.connect(run.cluster.network.database, DATA)


async def kill_database(run: Run, _host: Host, seconds: float) -> None:
    """Kill PostgreSQL, and start it again."""
    run.cluster.database.kill()
    await asyncio.sleep(seconds)
    run.cluster.database.start()


async def _disconnected(run: Run, host: Host, networks: Sequence[str], seconds: float) -> None:
    if FRONT in networks:  # The witness cannot hear when the machine leaves a job.
        run.unheard[host.machine.address(FRONT)].append(time.monotonic())
    for network in networks:
        run.cluster.network.disconnect(host.machine, network)
    await asyncio.sleep(seconds)
    for network in networks:
        run.cluster.network.connect(host.machine, network)


Fault = Callable[[Run, Host], Awaitable[None]]


def _for(fault: Callable[[Run, Host, float], Awaitable[None]], seconds: float) -> Fault:
    return lambda run, host: fault(run, host, seconds)


FAULTS: Mapping[str, Fault] = {
    "machine cut off from the database, 8 s": _for(cut_off_from_database, _SHORT_SECONDS),
    "machine cut off from the database, 22 s": _for(cut_off_from_database, _LONG_SECONDS),
    "machine cut off from the others, 22 s": _for(cut_off_from_others, _LONG_SECONDS),
    "machine cut off from everything, 22 s": _for(isolate, _LONG_SECONDS),
    "machine without power, 8 s": _for(lose_power, _SHORT_SECONDS),
    "machine without power, 22 s": _for(lose_power, _LONG_SECONDS),
    "database slow, 22 s": _for(slow_down_database, _LONG_SECONDS),
    "database hangs, 8 s": _for(pause_database, _SHORT_SECONDS),
    "database hangs, 22 s": _for(pause_database, _LONG_SECONDS),
    "database unreachable, 22 s": _for(cut_off_database, _LONG_SECONDS),
    "database killed, back after 8 s": _for(kill_database, _SHORT_SECONDS),
}

MAY_CUT = {name for name in FAULTS if "others" in name or "everything" in name or "power" in name}
"""Faults at which the proxy has to end answers that have begun."""


@contextlib.asynccontextmanager
async def _paced(cluster: Cluster) -> AsyncIterator[Counter[str]]:
    """Let a key with a limit ask all machines in turn, again and again, until the end of the block."""
    key = cluster.new_key(KeyRules(requests_per_minute=REQUESTS_PER_MINUTE))
    outcomes: Counter[str] = Counter()
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        clients = [await stack.enter_async_context(each) for each in cluster.limited_clients(key)]

        async def pace() -> None:
            async with asyncio.TaskGroup() as asked:
                number = 0
                while True:
                    asked.create_task(clients[number % len(clients)].ask(HERE, stream=False))
                    number += 1
                    await asyncio.sleep(PACE_SECONDS)

        pacing = tasks.create_task(pace())
        yield outcomes
        pacing.cancel()
        for client in clients:
            outcomes.update(client.outcomes)


async def _run(cluster: Cluster, names: Sequence[str], seed: int) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    exact = cluster.exact
    async with (
        running_witness() as witness,
        ChatClients(EDGE_URL, cluster.new_key(), seed=seed, certificate=cluster.certificate, exact=exact) as chats,
        QueuedRequests(
            EDGE_URL,
            [host.url for host in cluster.hosts],
            cluster.new_key(),
            seed=seed,
            certificate=cluster.certificate,
        ) as queued,
    ):
        await cluster.wait_until_ready()
        burst = await cluster.burst(REQUESTS_PER_MINUTE * 3 // 2)
        run = Run(cluster, witness, chats, queued, seed)
        chats.start(CLIENTS, (HERE, ANYWHERE))
        async with _paced(cluster) as paced:
            for name in names:
                rows.append(await run.suffer(name))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                if found := run.violations():
                    print("  ", found[-5:], file=sys.stderr, flush=True)
        await chats.finish()
        violations = [*run.violations(), *await queued.differences(), *await _wrong_texts(queued, exact=exact)]
        if burst != {"answered": REQUESTS_PER_MINUTE, "error": REQUESTS_PER_MINUTE // 2}:
            violations.append(f"of a burst: {burst}")
        jobs = len(queued.jobs)
    return {
        "faults": rows,
        "burst": dict(burst),
        "paced": dict(paced),
        "slowest_chat_seconds": round(chats.slowest_seconds, 1),
        "jobs": jobs,
        "readers_that_went_on_elsewhere": queued.resumed,
        "answered": chats.answered,
        "violations": violations,
    }


async def _wrong_texts(queued: QueuedRequests, *, exact: bool) -> list[str]:
    texts = [(body["messages"][0]["content"], text) for body, text in await queued.texts()]
    return [f"{text!r} instead of {wanted!r}" for wanted, text in texts if exact and wanted != text]


async def _wait_until_settled(cluster: Cluster, answered: dict[str, int]) -> list[str]:
    """Return what is still wrong in the books some time after the last request."""
    with contextlib.suppress(AssertionError):
        async with asyncio.timeout(_SETTLE_SECONDS):
            await wait_until(lambda: not cluster.books(answered))
    return cluster.books(answered)


def main() -> int:
    """Cause the faults and print the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts", description=__doc__.partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=3, choices=(2, 3), help="machines with dragoman (default: 3)")
    parser.add_argument("--model", default="echo", help="echo or smollm2-135m-instruct (default: echo)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each fault occurs (default: 1)")
    parser.add_argument("--only", default="", help="only faults whose name contains this")
    parser.add_argument("--seed", type=int, default=1, help="of machines, requests and readers (default: 1)")
    options = parser.parse_args()
    if (reason := missing("nginx")) is not None:
        print(f"hosts: skipped, no network of machines can be made here: {reason}")
        return 0
    exit_on_sigterm()
    names = [name for name in FAULTS if options.only in name] * options.rounds
    with running_cluster(options.hosts, model=options.model, witness=True, durable=True) as cluster:
        report = asyncio.run(_run(cluster, names, options.seed))
        answered = report.pop("answered")
        report["violations"] += asyncio.run(_wait_until_settled(cluster, answered))
        most = max(
            cluster.most_in_a_minute(key.id)
            for key in list_keys(cluster.fixture.database)
            if key.rules.requests_per_minute
        )
        if most > REQUESTS_PER_MINUTE:
            report["violations"].append(f"{most} requests of a key were admitted within a minute")
        account = cluster.fixture.account
    report |= {
        "most_in_a_minute": most,
        "slow_link": SLOW_LINK,
        "deposits": account.deposits,
        "balance": account.balance,
        "holds": account.holds,
        "charges": account.charges,
    }
    print(json.dumps(report, indent=2))
    return 1 if report["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
