"""Policies: which of a deployment's replicas a request goes to.

- cache: where the longest prefix of the prompt is cached, unless that replica is much busier than another.
- least: where the fewest tokens are in flight.
- weighted: at random, by weight.
- first: the first one.

All are pure: the replicas' loads, the prefix tree and the source of randomness are arguments.
"""

import hashlib
import random
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import msgspec

from dragoman.gateway.routing.prefix_tree import Blocks, PrefixTree
from dragoman.gateway.routing.router_options import PolicyName

PREFIX_WEIGHT = 2.0
"""Weight of the cached share of the prompt in a score. Load, free cache and adapter weigh 1 each."""

MAX_TOKENS_RATIO = 1.5
MAX_REQUESTS_EXCESS = 32
"""Beyond both, compared with the least loaded replica, the one with the best score is too busy."""

MAX_COMPARED = 8
"""With more replicas, `least` compares two random ones: workers with equal figures would all find the same one."""


class ReplicaLoad(msgspec.Struct, frozen=True, kw_only=True):
    """One replica that may be tried, at one moment. Replicas that cannot serve the request are left out."""

    id: str
    separates_owners: bool = True
    """Whether its prefix cache is one of each owner."""
    priority: int = 0
    """Replicas with the lowest one are used, the others when none of these has a free place."""
    weight: float = 1.0
    """More than 0. That of the settings times the share of the slow start."""
    requests: int = 0
    """Requests in flight."""
    tokens: int = 0
    """Their prompt tokens and expected answers."""
    concurrency: int | None = None
    """How many requests may be in flight; None: any number."""
    queue: int = 0
    """Requests of others, which run or wait there, as the replica reports them."""
    kv_usage: float = 0.0
    """The share of the KV cache that running requests use, 0 to 1."""
    active_adapters: frozenset[str] = frozenset()
    waiting_adapters: frozenset[str] = frozenset()
    """Adapters of requests that wait there."""
    max_adapters: int | None = None
    """Adapters that can be active together; None: any number."""
    cold_at: float = 0.0
    """When it was last given a request of which no replica had a prefix, in seconds of any monotonic clock."""

    @property
    def has_free_place(self) -> bool:
        """Whether one more request may be in flight."""
        return self.concurrency is None or self.requests < self.concurrency

    @property
    def weighted_tokens(self) -> float:
        """Tokens in flight, as many as a replica of weight 1 would have with this load."""
        return self.tokens / self.weight

    @property
    def weighted_requests(self) -> float:
        """Requests in flight and in its queue, as many as a replica of weight 1 would have with this load."""
        return (self.requests + self.queue) / self.weight


class RoutingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy knows of a request."""

    blocks: Blocks = ()
    """Hashes of its prompt, of which no two owners have equal ones."""
    shared_blocks: Blocks = ()
    """Hashes of its prompt for replicas that share prefixes between owners."""
    adapter: str = ""
    affinity: str = ""
    """Requests with an equal one go to the same replica where nothing else decides. It begins with the owner."""

    def blocks_for(self, *, separates_owners: bool) -> Blocks:
        """Return the hashes of its prompt for a replica."""
        return self.blocks if separates_owners else self.shared_blocks


class Choice(NamedTuple):
    """The replica to try."""

    id: str
    matched_blocks: int = 0
    """Blocks of the prompt that are in its prefix cache, as far as is known."""
    is_cold: bool = False
    """Whether no replica has a prefix of the prompt."""


class _Situation(NamedTuple):
    """The arguments of every policy."""

    loads: Sequence[ReplicaLoad]
    request: RoutingRequest
    prefixes: PrefixTree
    source: random.Random

    def count_matches(self, load: ReplicaLoad) -> int:
        """Return how many of the prompt's first blocks are in a replica's cache."""
        blocks = self.request.blocks_for(separates_owners=load.separates_owners)
        return self.prefixes.count_matches(load.id, blocks)


def choose(
    policy: PolicyName,
    loads: Sequence[ReplicaLoad],
    request: RoutingRequest,
    *,
    prefixes: PrefixTree,
    source: random.Random,
    tried: Collection[str] = (),
) -> Choice | None:
    """Choose a replica with a free place, of the lowest priority. None: there is none.

    Replicas in `tried`, where attempts have failed, are chosen only if no other has a free place.
    """
    free = [load for load in loads if load.has_free_place]
    free = [load for load in free if load.id not in tried] or free
    if not free:
        return None
    priority = min(load.priority for load in free)
    candidates = [load for load in free if load.priority == priority]
    return _POLICIES[policy](_Situation(candidates, request, prefixes, source))


def _choose_cache(situation: _Situation) -> Choice:
    loads, request, _, source = situation
    matches = {load.id: situation.count_matches(load) for load in loads}
    is_cold = not any(matches.values())
    if not is_cold:
        scores = _scores(loads, matches, request)
        best = max(scores)
        chosen = _break_tie([load for load, score in zip(loads, scores, strict=True) if score == best], situation)
    elif request.affinity:
        chosen = _break_tie(loads, situation)
    else:
        chosen = _spread_cold(loads, source)
    if _is_too_busy(chosen, loads):
        chosen = _less_loaded_of_two(loads, source)
    return Choice(chosen.id, matches[chosen.id], is_cold)


def _choose_least(situation: _Situation) -> Choice:
    loads, _, _, source = situation
    if len(loads) > MAX_COMPARED:
        chosen = _less_loaded_of_two(loads, source)
    else:
        fewest = min(map(_load_order, loads))
        chosen = _break_tie([load for load in loads if _load_order(load) == fewest], situation)
    return Choice(chosen.id, situation.count_matches(chosen))


def _choose_weighted(situation: _Situation) -> Choice:
    loads, _, _, source = situation
    [chosen] = source.choices(loads, [load.weight for load in loads])
    return Choice(chosen.id, situation.count_matches(chosen))


def _choose_first(situation: _Situation) -> Choice:
    first = situation.loads[0]
    return Choice(first.id, situation.count_matches(first))


_POLICIES: dict[PolicyName, Callable[[_Situation], Choice]] = {
    "cache": _choose_cache,
    "least": _choose_least,
    "weighted": _choose_weighted,
    "first": _choose_first,
}


def _scores(loads: Sequence[ReplicaLoad], matches: dict[str, int], request: RoutingRequest) -> list[float]:
    """Score the replicas, 0 to 5, as llm-d's scorers of prefix, queue, KV cache and adapters do."""
    fewest = min(load.weighted_requests for load in loads)
    spread = max(load.weighted_requests for load in loads) - fewest
    return [
        PREFIX_WEIGHT * matches[load.id] / len(request.blocks or request.shared_blocks)
        + (1 - (load.weighted_requests - fewest) / spread if spread else 1.0)
        + (1 - load.kv_usage)
        + _adapter_score(load, request.adapter)
        for load in loads
    ]


def _adapter_score(load: ReplicaLoad, adapter: str) -> float:
    if not adapter or adapter in load.active_adapters:
        return 1.0
    if load.max_adapters is None or len(load.active_adapters) < load.max_adapters:
        return 0.8
    return 0.6 if adapter in load.waiting_adapters else 0.0


def _spread_cold(loads: Sequence[ReplicaLoad], source: random.Random) -> ReplicaLoad:
    """Choose the least loaded one of the half that was given a cold request longest ago.

    Strict turns would send cold requests to replicas that hot prefixes keep busy. The load alone would fill the caches
    of idle replicas with prefixes that nobody asks for again.
    """
    in_order = sorted(loads, key=lambda load: (load.cold_at, source.random()))
    return min(in_order[: (len(loads) + 1) // 2], key=_load_order)


def _is_too_busy(load: ReplicaLoad, loads: Sequence[ReplicaLoad]) -> bool:
    least = min(loads, key=_load_order)
    return (
        load.weighted_tokens > MAX_TOKENS_RATIO * least.weighted_tokens
        and load.weighted_requests > MAX_REQUESTS_EXCESS + least.weighted_requests
    )


def _less_loaded_of_two(loads: Sequence[ReplicaLoad], source: random.Random) -> ReplicaLoad:
    return min(source.sample(loads, 2), key=_load_order)


def _load_order(load: ReplicaLoad) -> tuple[float, float]:
    return load.weighted_tokens, load.weighted_requests


def _break_tie(loads: Sequence[ReplicaLoad], situation: _Situation) -> ReplicaLoad:
    """Choose among equals: by rendezvous hashing of the affinity, or else at random.

    A replica that comes or goes moves only the affinities that it gets or had.
    """
    if affinity := situation.request.affinity:
        return max(loads, key=lambda load: _rendezvous(affinity, load.id))
    return situation.source.choice(loads)


def _rendezvous(affinity: str, replica: str) -> bytes:
    document = f"{len(affinity)}:{affinity}{replica}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(document, digest_size=8).digest()
