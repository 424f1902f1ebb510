import random
from collections import Counter
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.gateway.routing.policies import (
    MAX_COMPARED,
    MAX_REQUESTS_EXCESS,
    Choice,
    ReplicaLoad,
    RoutingRequest,
    choose,
)
from dragoman.gateway.routing.prefix_tree import TOKENS_PER_BLOCK, PrefixTree, hash_tokens
from dragoman.gateway.routing.router_options import PolicyName

POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)
BLOCKS = hash_tokens(range(4 * TOKENS_PER_BLOCK))
REQUEST = RoutingRequest(blocks=BLOCKS)

replica_loads = st.builds(
    ReplicaLoad,
    id=st.uuids().map(str),
    priority=st.integers(0, 2),
    weight=st.floats(0.01, 100),
    requests=st.integers(0, 100),
    tokens=st.integers(0, 1_000_000),
    concurrency=st.none() | st.integers(0, 100),
    queue=st.integers(0, 100),
    kv_usage=st.floats(0, 1),
    active_adapters=st.frozensets(st.sampled_from("xyz")),
    max_adapters=st.none() | st.integers(0, 3),
    cold_at=st.floats(0, 1000),
)


def load(number: int, **fields: object) -> ReplicaLoad:
    return msgspec.structs.replace(ReplicaLoad(id=f"r{number}"), **fields)


def chosen(
    policy: PolicyName,
    loads: list[ReplicaLoad],
    request: RoutingRequest = REQUEST,
    prefixes: PrefixTree | None = None,
    seed: int = 0,
) -> Choice:
    choice = choose(policy, loads, request, prefixes=prefixes or PrefixTree(), source=random.Random(seed))
    assert choice is not None
    return choice


def known(**matches: int) -> PrefixTree:
    """Build a tree in which each replica has this many of the first BLOCKS."""
    prefixes = PrefixTree()
    for replica, count in matches.items():
        prefixes.record(replica, BLOCKS[:count])
    return prefixes


@given(
    policy=st.sampled_from(POLICIES),
    loads=st.lists(replica_loads, max_size=12),
    tried=st.lists(st.integers(0, 11), max_size=5),
    adapter=st.sampled_from(["", "x"]),
    affinity=st.sampled_from(["", "account 1 session"]),
    seed=st.integers(0, 3),
)
@settings(max_examples=200)
def test_a_replica_with_a_free_place_of_the_lowest_priority_is_chosen_if_there_is_one(
    policy: PolicyName, loads: list[ReplicaLoad], tried: list[int], adapter: str, affinity: str, seed: int
) -> None:
    prefixes = PrefixTree()
    for number, each in enumerate(loads):
        prefixes.record(each.id, BLOCKS[: number % 5])
    failed = {loads[number].id for number in tried if number < len(loads)}
    request = RoutingRequest(blocks=BLOCKS, adapter=adapter, affinity=affinity)
    choice = choose(policy, loads, request, prefixes=prefixes, source=random.Random(seed), tried=failed)
    free = [each for each in loads if each.concurrency is None or each.requests < each.concurrency]
    if choice is None:
        assert not free
        return
    [replica] = [each for each in free if each.id == choice.id]
    assert choice.id not in failed or failed >= {each.id for each in free}
    alternatives = [each for each in free if each.id not in failed] or free
    assert replica.priority == min(each.priority for each in alternatives)
    assert choice.matched_blocks == prefixes.count_matches(choice.id, BLOCKS)


def test_cache_prefers_the_replica_that_has_more_of_the_prompt_to_a_less_loaded_one() -> None:
    loads = [load(0, requests=3), load(1, requests=5), load(2, requests=5)]
    assert chosen("cache", loads, prefixes=known(r1=1, r2=4)) == Choice("r2", matched_blocks=4)


def test_cache_prefers_the_less_loaded_of_two_that_have_as_much_of_the_prompt() -> None:
    assert chosen("cache", [load(0, requests=3), load(1, queue=2)], prefixes=known(r0=2, r1=2)).id == "r1"
    for seed in range(10):
        loads = [load(0, kv_usage=0.5), load(1, kv_usage=0.4)]
        assert chosen("cache", loads, prefixes=known(r0=2, r1=2), seed=seed).id == "r1"


def test_cache_lets_a_short_match_on_a_busy_replica_go() -> None:
    loads = [load(0, requests=10, kv_usage=0.9), load(1, kv_usage=0.1)]
    assert chosen("cache", loads, prefixes=known(r0=1)) == Choice("r1", matched_blocks=0)


def test_cache_leaves_a_replica_that_is_much_busier_than_another() -> None:
    busy = load(0, requests=MAX_REQUESTS_EXCESS + 1, tokens=1_000)
    prefixes = known(r0=4)
    assert chosen("cache", [busy, load(1)], prefixes=prefixes).id == "r1"
    # Only many requests with many tokens are a load to run from.
    fewer_requests = msgspec.structs.replace(busy, requests=MAX_REQUESTS_EXCESS)
    assert chosen("cache", [fewer_requests, load(1)], prefixes=prefixes).id == "r0"
    assert chosen("cache", [busy, load(1, tokens=900)], prefixes=prefixes).id == "r0"


def test_cache_prefers_active_adapters_then_room_for_one_then_waiting_ones() -> None:
    loads = [
        load(0, active_adapters=frozenset("bc"), max_adapters=2),
        load(1, active_adapters=frozenset("bc"), waiting_adapters=frozenset("a"), max_adapters=2),
        load(2, active_adapters=frozenset("b"), max_adapters=2),
        load(3, active_adapters=frozenset("ab"), max_adapters=2),
    ]
    prefixes = known(r0=2, r1=2, r2=2, r3=2)
    request = RoutingRequest(blocks=BLOCKS, adapter="a")
    while loads:
        assert chosen("cache", loads, request, prefixes).id == loads[-1].id
        loads.pop()


def test_cold_requests_of_idle_replicas_are_spread_evenly() -> None:
    loads = [load(number) for number in range(8)]
    counts: Counter[str] = Counter()
    for now in range(1, 801):
        choice = chosen("cache", loads, seed=now)
        assert choice.is_cold
        counts[choice.id] += 1
        loads = [msgspec.structs.replace(each, cold_at=now) if each.id == choice.id else each for each in loads]
    assert min(counts.values()) >= 80
    assert max(counts.values()) <= 120


def test_a_cold_request_goes_to_the_least_loaded_of_those_given_one_longest_ago() -> None:
    loads = [load(0, cold_at=4), load(1, cold_at=3), load(2, cold_at=2, tokens=10), load(3, cold_at=1, tokens=20)]
    for seed in range(10):
        assert chosen("cache", loads, seed=seed) == Choice("r2", is_cold=True)


def test_least_chooses_the_fewest_tokens_for_its_weight() -> None:
    assert chosen("least", [load(0, tokens=30), load(1, tokens=20), load(2, tokens=25)]).id == "r1"
    assert chosen("least", [load(0, tokens=30, weight=2), load(1, tokens=20)]).id == "r0"


def test_least_compares_two_of_many_replicas() -> None:
    loads = [load(number, tokens=number) for number in range(MAX_COMPARED + 1)]
    counts = Counter(chosen("least", loads, seed=seed).id for seed in range(200))
    assert len(counts) == MAX_COMPARED  # All but the busiest, which loses every comparison.


def test_weighted_chooses_by_weight() -> None:
    loads = [load(0, weight=3), load(1, weight=1)]
    counts = Counter(chosen("weighted", loads, seed=seed).id for seed in range(1_000))
    assert 2 < counts["r0"] / counts["r1"] < 4.5


def test_first_chooses_the_first_with_a_free_place() -> None:
    assert chosen("first", [load(0, requests=1, concurrency=1), load(1, tokens=9), load(2)]).id == "r1"


def test_a_replica_whose_attempt_failed_is_tried_again_only_if_no_other_has_a_place() -> None:
    full = load(1, requests=1, concurrency=1)
    for others, expected in (([load(1, priority=1)], "r1"), ([full], "r0")):
        loads = [load(0), *others]
        choice = choose("first", loads, REQUEST, prefixes=PrefixTree(), source=random.Random(0), tried={"r0"})
        assert choice is not None
        assert choice.id == expected


@pytest.mark.parametrize("policy", ["cache", "least"])
def test_equals_are_chosen_at_random_without_an_affinity(policy: PolicyName) -> None:
    loads = [load(number) for number in range(4)]
    prefixes = known(r0=2, r1=2, r2=2, r3=2)
    assert len({chosen(policy, loads, prefixes=prefixes, seed=seed).id for seed in range(100)}) == 4


@pytest.mark.parametrize("policy", ["cache", "least"])
@pytest.mark.parametrize("prefixes", [known(), known(r0=2, r1=2, r2=2, r3=2)], ids=["cold", "warm"])
def test_an_affinity_decides_between_equals_and_a_lost_replica_moves_no_other(
    policy: PolicyName, prefixes: PrefixTree
) -> None:
    loads = [load(number) for number in range(4)]
    moved = set()
    for number in range(100):
        request = RoutingRequest(blocks=BLOCKS, affinity=f"account 1 session {number}")
        before = {chosen(policy, loads, request, prefixes, seed).id for seed in range(3)}
        after = {chosen(policy, loads[:3], request, prefixes, seed).id for seed in range(3)}
        assert len(before) == len(after) == 1
        if before != after:
            moved |= before
    assert moved == {"r3"}


def test_an_affinity_overrides_no_load() -> None:
    busy = [load(number, requests=MAX_REQUESTS_EXCESS + 1, tokens=1_000) for number in range(3)]
    for number in range(20):
        request = RoutingRequest(blocks=BLOCKS, affinity=f"account 1 session {number}")
        assert chosen("least", [*busy, load(3)], request).id == "r3"
        loads_of_two = [busy[0], load(3)]
        assert chosen("cache", loads_of_two, request).id == "r3"
