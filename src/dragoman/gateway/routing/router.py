"""The router of a deployment: what this process knows of its replicas, and which of them may take a request now."""

import asyncio
import random
import time
from collections.abc import Collection, Sequence

from dragoman.engines.reported_load import ReportedLoad
from dragoman.gateway.routing.health import FIRST_EJECTION_SECONDS, DeploymentHealth
from dragoman.gateway.routing.leases import ReplicaLeases
from dragoman.gateway.routing.metrics import RoutingMetrics
from dragoman.gateway.routing.policies import Choice, ReplicaLoad, RoutingRequest, choose
from dragoman.gateway.routing.prefix_tree import TOKENS_PER_BLOCK, PrefixTree
from dragoman.gateway.routing.recent_counts import Clock
from dragoman.gateway.routing.replica import Replica
from dragoman.gateway.routing.retry_budget import RetryBudget, backoff_seconds
from dragoman.gateway.routing.router_options import RouterOptions

MAX_HEDGED_LOAD = 0.7
"""Share of the places above which no request gets a second attempt beside the first: it would wait for others."""

OTHER_REQUEST_TOKENS = 512
"""Tokens that a request of others is taken for: servers report how many requests they have, not how large they are."""

NOTHING_REPORTED = ReportedLoad(other_requests=0)

WATCH_SECONDS = 1.0
"""Between two looks at an ejected replica."""


class Router:
    """Chooses the replicas for the attempts of one deployment's requests."""

    def __init__(
        self,
        options: RouterOptions | None = None,
        *,
        clock: Clock = time.monotonic,
        source: random.Random | None = None,
    ) -> None:
        """`source` of None is seeded by the operating system, so that workers choose differently."""
        self.options = options or RouterOptions()
        self.metrics: RoutingMetrics | None = None
        """Set before the first request; None: nothing is counted."""
        self.health = DeploymentHealth(clock)
        self.leases = ReplicaLeases(self.options.max_waiting)
        self.prefixes = PrefixTree()
        self.budget = RetryBudget(clock=clock)
        self._clock = clock
        self._source = random.Random() if source is None else source
        self._paused_until: dict[str, float] = {}
        self._cold_at: dict[str, float] = {}
        self._watches: dict[str, asyncio.TimerHandle] = {}
        self._were_down: set[str] = set()
        """Ejected replicas whose engine was not ready since."""

    def add(self, replica: Replica, *, is_new: bool = True) -> None:
        """Add a replica. `is_new` False: without slow start, as at the start of the server."""
        self.health.add(replica.name, is_new=is_new)
        if replica.cache_tokens is not None:
            self.prefixes.limit(replica.name, replica.cache_tokens // TOKENS_PER_BLOCK)
        self.leases.notify()

    def remove(self, replica: str) -> None:
        """Remove a replica. Its running attempts go on."""
        self.health.remove(replica)
        self.prefixes.forget(replica)
        self._paused_until.pop(replica, None)
        self._cold_at.pop(replica, None)
        self._were_down.discard(replica)
        if (watch := self._watches.pop(replica, None)) is not None:
            watch.cancel()

    def undrain(self, replica: str) -> None:
        """Allow attempts at a drained replica again."""
        self.health.undrain(replica)
        self.leases.notify()

    @property
    def needs_blocks(self) -> bool:
        """Whether the policy compares the prompts of requests."""
        return self.options.policy == "cache"

    def choose(self, replicas: Sequence[Replica], request: RoutingRequest, tried: Collection[str]) -> Choice | None:
        """Choose one that has a free place now. None: there is none."""
        if len(replicas) == 1 and not request.blocks:
            [only] = replicas
            return Choice(only.name) if self._may_attempt(only.name) and self._has_free_place(only) else None
        loads = [self._load(replica) for replica in self._usable(replicas, tried)]
        choice = choose(self.options.policy, loads, request, prefixes=self.prefixes, source=self._source, tried=tried)
        if choice is not None and choice.is_cold:
            self._cold_at[choice.id] = self._clock()
        return choice

    def try_hedge(self, replicas: Sequence[Replica], others: Sequence[Replica]) -> bool:
        """Whether one of the others may be asked now besides. If so, the retry budget is charged with it."""
        if self.leases.waiting or self._load_share(replicas) > MAX_HEDGED_LOAD:
            return False
        is_free = any(map(self._has_free_place, self._usable(others, ())))
        return is_free and self.budget.try_spend()

    def _load_share(self, replicas: Sequence[Replica]) -> float:
        """Return the share of the replicas' places that requests of this process have."""
        limited = [(self.leases.in_flight(each.name).requests, each.concurrency) for each in replicas]
        places = sum(concurrency for _, concurrency in limited if concurrency is not None)
        return sum(requests for requests, concurrency in limited if concurrency is not None) / max(1, places)

    def has_other(self, replicas: Sequence[Replica], tried: Collection[str]) -> bool:
        """Whether a replica that was not tried may be attempted."""
        return any(replica.name not in tried and self._may_attempt(replica.name) for replica in replicas)

    def returns_in(self, replicas: Sequence[Replica]) -> float | None:
        """Return the seconds until the first of the replicas may be attempted. None: all are draining."""
        delays = [self._returns_in(replica.name) for replica in replicas if self.health.knows(replica.name)]
        return min((delay for delay in delays if delay is not None), default=None)

    def pause(self, replica: str, seconds: float) -> None:
        """Begin no attempts for a time, without a judgement of the replica's health: it limits the rate."""
        if self.health.knows(replica):
            self._paused_until[replica] = max(self._paused_until.get(replica, 0.0), self._clock() + seconds)

    def paused_for(self, replica: str) -> float:
        """Return the seconds until a pause of the replica ends; 0: there is none."""
        return max(0.0, self._paused_until.get(replica, 0.0) - self._clock())

    def watch(self, replica: Replica) -> None:
        """Let those who wait choose again as soon as the replica may be attempted."""
        name = replica.name
        if (earlier := self._watches.pop(name, None)) is not None:
            earlier.cancel()
        # Read once: if the time were over only for the second look, nobody would look again.
        delay = self._returns_in(name) if self.health.knows(name) else None
        if self.health.is_ejected(name) and self._is_back_early(replica, delay):
            self._were_down.discard(name)
            self.health.end_ejection(name)
            delay = self._returns_in(name)
        if not delay:
            self.leases.notify()
            return
        seconds = min(delay, WATCH_SECONDS)
        self._watches[name] = asyncio.get_running_loop().call_later(seconds, self.watch, replica)

    def _is_back_early(self, replica: Replica, delay: float | None) -> bool:
        """Whether an ejected replica shall be tried before its time: it is ready again, or there is no better one.

        `delay` is what `_returns_in` returns.
        """
        if not replica.engine.ready:
            self._were_down.add(replica.name)
        return delay == 0 or (replica.engine.ready and replica.name in self._were_down)

    def backoff(self, attempts: int) -> float:
        """Return the seconds to wait before a replica is tried again, after so many failed attempts."""
        return backoff_seconds(attempts, self._source.random)

    def _usable(self, replicas: Sequence[Replica], tried: Collection[str]) -> list[Replica]:
        """Return those that may be attempted, and only those that are ready while one of them was not tried."""
        usable = [replica for replica in replicas if self._may_attempt(replica.name)]
        ready = [replica for replica in usable if replica.engine.ready]
        return ready if any(replica.name not in tried for replica in ready) else usable

    def _may_attempt(self, replica: str) -> bool:
        return (
            self.health.knows(replica)
            and self.health.may_attempt(replica)
            and self._paused_until.get(replica, 0.0) <= self._clock()
        )

    def _returns_in(self, replica: str) -> float | None:
        delay = self.health.returns_in(replica)
        if delay is None:
            return None
        if delay and not self.health.has_closed:
            # Long ejections keep requests at better replicas. Without any, an outage must not outlast its cause.
            delay = min(delay, max(0.0, FIRST_EJECTION_SECONDS - self.health.ejected_for(replica)))
        return max(delay, self._paused_until.get(replica, 0.0) - self._clock())

    def _has_free_place(self, replica: Replica) -> bool:
        if (concurrency := replica.concurrency) is None:
            return True
        return self.leases.in_flight(replica.name).requests < self.health.allowed_concurrency(replica.name, concurrency)

    def _load(self, replica: Replica) -> ReplicaLoad:
        in_flight = self.leases.in_flight(replica.name)
        reported = NOTHING_REPORTED
        if replica.load_reports is not None and (latest := replica.load_reports.read()) is not None:
            reported = latest
            if latest.cache_tokens is not None:
                self.prefixes.limit(replica.name, latest.cache_tokens // TOKENS_PER_BLOCK)
        return ReplicaLoad(
            id=replica.name,
            separates_owners=replica.separates_owners,
            priority=replica.priority,
            weight=replica.weight * self.health.slow_start(replica.name),
            requests=in_flight.requests,
            tokens=in_flight.tokens + reported.other_requests * OTHER_REQUEST_TOKENS,
            concurrency=None
            if replica.concurrency is None
            else self.health.allowed_concurrency(replica.name, replica.concurrency),
            cold_at=self._cold_at.get(replica.name, 0.0),
            queue=reported.other_requests,
            kv_usage=reported.kv_usage,
            active_adapters=reported.active_adapters,
            waiting_adapters=reported.waiting_adapters,
            max_adapters=reported.max_adapters,
        )
