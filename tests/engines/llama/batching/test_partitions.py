from hypothesis import given
from hypothesis import strategies as st

from dragoman.engines.llama.batching.partitions import PartitionLoad, choose_partition
from tests.support.batching import BatcherHarness, prompts_with_long_answers

EMPTY = PartitionLoad(0, 0, 0)
STEP_CELLS = 3000


def test_texts_of_their_own_are_kept_apart_by_fours() -> None:
    assert _partitions_of(count=16, shared=0, own=550) == [4, 4, 4, 4]


def test_short_ends_of_a_long_common_prefix_are_kept_together() -> None:
    assert _partitions_of(count=10, shared=480, own=60) == [10]


def test_short_texts_are_kept_together_since_a_pass_over_the_weights_costs_more() -> None:
    assert _partitions_of(count=8, shared=0, own=40) == [8]


def test_a_lone_sequence_goes_where_its_prefix_is() -> None:
    assert choose_partition([EMPTY, PartitionLoad(0, 0, 90), EMPTY], 100, STEP_CELLS) == 1


@given(st.lists(st.builds(PartitionLoad, st.just(0), st.just(0), st.integers(0, 100)), min_size=1, max_size=5))
def test_of_empty_partitions_the_one_with_the_longest_prefix_is_chosen(loads: list[PartitionLoad]) -> None:
    chosen = choose_partition(loads, 101, STEP_CELLS)
    assert loads[chosen].shared == max(load.shared for load in loads)


def test_requests_with_texts_of_their_own_are_computed_in_several_partitions() -> None:
    harness = BatcherHarness(partitions=3, step_cells=100, max_sequences=6, max_batched_tokens=512)
    for prompt in prompts_with_long_answers(6, 8):
        harness.add(prompt * 5, 6)
    harness.step()
    in_each = [harness.backend.used_in_partition(number) for number in range(3)]
    assert max(in_each) <= 2 * min(in_each)


def _partitions_of(count: int, shared: int, own: int) -> list[int]:
    """Place so many sequences one after another, and return how many each partition has."""
    members = [0] * 4
    for _ in range(count):
        loads = [PartitionLoad(number, shared + own * number, shared) if number else EMPTY for number in members]
        members[choose_partition(loads, shared + own, STEP_CELLS)] += 1
    return [number for number in members if number]
