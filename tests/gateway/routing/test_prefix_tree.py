"""The prefix tree against a list of the prompts that each replica was sent."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dragoman.gateway.routing.prefix_tree import (
    BYTES_PER_BLOCK,
    TOKENS_PER_BLOCK,
    Blocks,
    PrefixTree,
    hash_text,
    hash_tokens,
)

REPLICAS = ("a", "b")
CAPACITY = 6

# Few different blocks, so that prompts share prefixes.
prompts = st.lists(st.integers(0, 2), max_size=5).map(
    lambda blocks: hash_tokens([block for block in blocks for _ in range(TOKENS_PER_BLOCK)])
)


class TreeModel(RuleBasedStateMachine):
    """Replicas whose whole prompts are remembered, most recent last."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = PrefixTree(CAPACITY)
        self.prompts: dict[str, list[Blocks]] = {replica: [] for replica in REPLICAS}

    @rule(replica=st.sampled_from(REPLICAS), prompt=prompts)
    def record(self, replica: str, prompt: Blocks) -> None:
        self.tree.record(replica, prompt)
        self.prompts[replica].append(prompt)
        assert self.tree.count_matches(replica, prompt) == len(prompt)

    @rule(replica=st.sampled_from(REPLICAS))
    def forget(self, replica: str) -> None:
        self.tree.forget(replica)
        self.prompts[replica].clear()

    @rule(replica=st.sampled_from(REPLICAS), prompt=prompts)
    def match(self, replica: str, prompt: Blocks) -> None:
        matched = self.tree.count_matches(replica, prompt)
        assert matched <= max((shared(prompt, each) for each in self.prompts[replica]), default=0)

    @invariant()
    def what_is_not_evicted_is_found_from_its_beginning(self) -> None:
        for replica in REPLICAS:
            found = {
                block
                for prompt in self.prompts[replica]
                for block in prompt[: self.tree.count_matches(replica, prompt)]
            }
            assert len(found) == self.tree.count_blocks(replica) <= CAPACITY


def shared(first: Blocks, second: Blocks) -> int:
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


TestTree = TreeModel.TestCase
TestTree.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


@given(st.lists(st.integers(0, 2**31 - 1), max_size=300), st.lists(st.integers(0, 2**31 - 1), max_size=300))
def test_prompts_share_the_hashes_of_the_whole_blocks_that_they_share(first: list[int], second: list[int]) -> None:
    common = [0] * TOKENS_PER_BLOCK
    hashes, others = hash_tokens([*common, *first]), hash_tokens([*common, *second])
    assert len(hashes) == (TOKENS_PER_BLOCK + len(first)) // TOKENS_PER_BLOCK
    same_tokens = TOKENS_PER_BLOCK
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        same_tokens += 1
    assert shared(hashes, others) == min(same_tokens // TOKENS_PER_BLOCK, len(hashes), len(others))


def test_only_whole_blocks_are_hashed() -> None:
    assert hash_tokens([1] * (TOKENS_PER_BLOCK - 1)) == ()
    assert len(hash_tokens([1] * (2 * TOKENS_PER_BLOCK))) == 2
    assert hash_text("é" * (BYTES_PER_BLOCK // 2 - 1)) == ()
    assert len(hash_text("é" * (BYTES_PER_BLOCK // 2))) == 1


def test_adapters_salts_and_kinds_of_blocks_share_nothing() -> None:
    tokens = [1] * 3 * TOKENS_PER_BLOCK
    variants = [
        hash_tokens(tokens),
        hash_tokens(tokens, adapter="a"),
        hash_tokens(tokens, cache_salt="a"),
        hash_tokens(tokens, adapter="aa"),
        hash_tokens(tokens, adapter="a", cache_salt="a"),
        hash_text("a" * 3 * BYTES_PER_BLOCK),
    ]
    assert len({block for blocks in variants for block in blocks}) == 3 * len(variants)


def test_a_later_block_counts_only_after_the_ones_before_it() -> None:
    tree = PrefixTree()
    prompt = hash_tokens(range(3 * TOKENS_PER_BLOCK))
    moved = hash_tokens(range(TOKENS_PER_BLOCK, 3 * TOKENS_PER_BLOCK))
    tree.record("a", prompt)
    assert tree.count_matches("a", moved) == 0
    assert tree.count_matches("b", prompt) == 0


def test_the_last_blocks_of_the_prompt_used_longest_ago_are_evicted_first() -> None:
    tree = PrefixTree(max_blocks=4)
    first, second = (hash_tokens([token] * 3 * TOKENS_PER_BLOCK) for token in (1, 2))
    tree.record("a", first)
    tree.record("a", second)
    assert [tree.count_matches("a", blocks) for blocks in (first, second)] == [1, 3]


def test_a_reported_cache_size_bounds_a_replica_at_once_and_from_then_on() -> None:
    tree = PrefixTree()
    blocks = hash_tokens([1] * 5 * TOKENS_PER_BLOCK)
    tree.record("a", blocks)
    tree.limit("a", 2)
    assert tree.count_matches("a", blocks) == 2
    tree.record("a", blocks)
    assert tree.count_blocks("a") == 2
    with pytest.raises(ValueError, match="-1 blocks"):
        tree.limit("a", -1)


def test_hashes_are_equal_in_all_processes() -> None:
    assert hash_text("x" * BYTES_PER_BLOCK)[0].hex() == "8951a6adcbb12622"
