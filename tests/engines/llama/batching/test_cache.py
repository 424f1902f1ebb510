"""Prefixes are shared within an owner, and public ones among all, wherever the cells are."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.engines.llama.batching.scheduler import MIN_AWAITED_PREFIX_TOKENS
from dragoman.engines.llama.batching.sequence import RequestKey
from tests.support.batching import BatcherHarness, prompts_with_long_answers
from tests.support.simulated_backend import ALL_TOKENS, reference_answer

PROMPT = [5] * 100
OTHERS = [6] * 150


def cached_tokens(harness: BatcherHarness, key: RequestKey) -> int:
    usage = harness.answers[key].usage
    assert usage is not None
    return usage.cached_tokens


def leave_in_cells(harness: BatcherHarness) -> None:
    """Keep what was computed in the KV cache."""


def leave_in_host_memory(harness: BatcherHarness) -> None:
    """Let another request take the cells, which are offloaded."""
    harness.add(OTHERS, limit=1, owner="carol")
    harness.run()


def offload_in_idle_time(harness: BatcherHarness) -> None:
    while harness.batcher.use_idle_time():
        pass
    harness.batcher.cache.clear()


@pytest.mark.parametrize("leave", [leave_in_cells, leave_in_host_memory, offload_in_idle_time])
def test_an_owner_finds_its_own_prefixes_only(leave: Callable[[BatcherHarness], None]) -> None:
    harness = BatcherHarness(cells=200)
    harness.add(PROMPT, limit=1, owner="alice")
    harness.run()
    leave(harness)
    bob = harness.add(PROMPT, limit=1, owner="bob")
    harness.run()
    assert cached_tokens(harness, bob) == 0
    alice = harness.add(PROMPT, limit=1, owner="alice")
    harness.run()
    assert cached_tokens(harness, alice) == len(PROMPT) - 1
    assert harness.answers[alice].tokens[0] == harness.answers[bob].tokens[0] == reference_answer(PROMPT, 1)


def test_a_guess_takes_as_many_steps_whether_another_owner_sent_it_or_not() -> None:
    steps = []
    for secret in ([7] * 100, [8] * 100):
        harness = BatcherHarness(max_batched_tokens=16)
        harness.add(secret, limit=1, owner="alice")
        harness.run()
        first = len(harness.backend.batches)
        harness.add([7] * 100, limit=1, owner="bob")
        harness.run()
        steps.append(harness.backend.batches[first:])
    assert steps[0] == steps[1]


def test_a_salt_separates_the_prefixes_of_one_owner() -> None:
    harness = BatcherHarness()
    found = []
    for salt in ("", "a", "b", "a", ""):
        key = harness.add(PROMPT, limit=1, owner="alice", cache_salt=salt)
        harness.run()
        found.append(cached_tokens(harness, key))
    assert found == [0, 0, 0, len(PROMPT) - 1, len(PROMPT) - 1]


def test_a_prefix_that_another_owner_is_computing_is_not_awaited() -> None:
    harness = BatcherHarness(max_batched_tokens=16)
    harness.add([5] * 200, limit=2, owner="alice")
    harness.step()
    bob = harness.add([5] * 200, limit=2, owner="bob")
    harness.run()
    assert cached_tokens(harness, bob) == 0


@pytest.mark.parametrize("leave", [leave_in_cells, leave_in_host_memory, offload_in_idle_time])
def test_a_public_prefix_is_shared_by_all_owners_and_nothing_after_it(
    leave: Callable[[BatcherHarness], None],
) -> None:
    harness = BatcherHarness(cells=200)
    harness.add([*[7] * 60, *[8] * 40], limit=1, owner="alice", public_tokens=60)
    harness.run()
    leave(harness)
    bob = harness.add([*[7] * 60, *[8] * 40], limit=1, owner="bob", public_tokens=60)
    harness.run()
    assert cached_tokens(harness, bob) == 60


def test_a_prefix_is_public_only_for_prompts_that_begin_with_all_of_it() -> None:
    harness = BatcherHarness()
    harness.add([7] * 40, limit=1, owner="alice")
    harness.run()
    bob = harness.add([7] * 100, limit=1, owner="bob", public_tokens=60)
    harness.run()
    assert cached_tokens(harness, bob) == 0


prompts = st.builds(
    lambda public, rest: (public * [7] + rest, public),
    st.sampled_from([0, 0, 20, 35]),
    st.lists(st.sampled_from([7, 7, 7, 9]), min_size=1, max_size=60),
)


@settings(max_examples=150, deadline=None)
@given(
    requests=st.lists(
        st.tuples(prompts, st.sampled_from("abc"), st.sampled_from(["", "salt"]), st.integers(0, 6)), max_size=12
    ),
    cells=st.sampled_from([120, 250, 2048]),
    host_cache_tokens=st.sampled_from([0, 100, 10_000]),
    reuses_cells=st.booleans(),
    divisible_tokens=st.sampled_from([ALL_TOKENS, 15, 0]),
)
def test_no_owner_gets_more_than_what_it_sent_itself_or_what_is_public(
    requests: list[tuple[tuple[list[int], int], str, str, int]],
    cells: int,
    host_cache_tokens: int,
    *,
    reuses_cells: bool,
    divisible_tokens: int,
) -> None:
    harness = BatcherHarness(
        cells=cells,
        host_cache_tokens=host_cache_tokens,
        reuses_cells=reuses_cells,
        divisible_tokens=divisible_tokens,
    )
    known: dict[tuple[str, str], list[list[int]]] = {}
    keys = []
    for (prompt, public), owner, salt, steps in requests:
        own = known.setdefault((owner, salt), [])
        most = max([public, *(_common(prompt, [*one, *reference_answer(one, 5)]) for one in own)])
        key = harness.add(prompt, limit=5, owner=owner, cache_salt=salt, public_tokens=public)
        keys.append((key, prompt, most))
        own.append(prompt)
        for _ in range(steps):
            harness.step()
    harness.run()
    for key, prompt, most in keys:
        assert cached_tokens(harness, key) <= most
        assert harness.answers[key].tokens[0] == reference_answer(prompt, 5)
    harness.assert_nothing_leaked()


def _common(left: list[int], right: list[int]) -> int:
    different = (index for index, (one, other) in enumerate(zip(left, right, strict=False)) if one != other)
    return next(different, min(len(left), len(right)))


def test_a_running_sequence_of_another_owner_shares_nothing() -> None:
    harness = BatcherHarness()
    [prompt] = prompts_with_long_answers(1, 40)
    harness.add(prompt, limit=40, owner="alice")
    harness.step()
    bob = harness.add(prompt, limit=1, owner="bob")
    harness.run()
    assert cached_tokens(harness, bob) == 0


@pytest.mark.parametrize("leave", [leave_in_cells, leave_in_host_memory, offload_in_idle_time])
def test_a_recurrent_state_is_continued_by_what_begins_with_all_of_its_tokens(
    leave: Callable[[BatcherHarness], None],
) -> None:
    harness = BatcherHarness(cells=300, divisible_tokens=0)
    harness.add(PROMPT, limit=5, owner="alice")
    harness.run()
    leave(harness)
    computed = [*PROMPT, *reference_answer(PROMPT, 5)[:-1]]
    found = []
    for prompt in (PROMPT, [*computed, 9, 9], [*PROMPT, 9, 9]):
        key = harness.add(prompt, limit=1, owner="alice")
        harness.run()
        assert harness.answers[key].tokens[0] == reference_answer(prompt, 1)
        found.append(cached_tokens(harness, key))
    assert found == [0, len(computed), len(PROMPT)]
    harness.assert_nothing_leaked()


def test_a_preempted_sequence_goes_on_from_its_recurrent_state() -> None:
    harness = BatcherHarness(cells=120, divisible_tokens=0)
    prompts = prompts_with_long_answers(3, 40)
    keys = [harness.add(prompt, limit=40) for prompt in prompts]
    harness.run()
    computed = sum(map(sum, harness.backend.batches))
    assert computed == sum(len(prompt) + 40 - 1 for prompt in prompts)
    assert [harness.answers[key].tokens[0] for key in keys] == [reference_answer(prompt, 40) for prompt in prompts]


def test_no_more_recurrent_states_are_kept_in_host_memory_than_sequences() -> None:
    harness = BatcherHarness(max_sequences=4, host_cache_tokens=600, divisible_tokens=0)
    for first in range(1, 20):
        harness.add([first] * 5, limit=1)
        harness.run()
        while harness.batcher.use_idle_time():
            pass
    kept = 0
    harness.batcher.cache.clear()
    for first in range(19, 0, -1):
        key = harness.add([first] * 6, limit=1)
        harness.run()
        kept += bool(cached_tokens(harness, key))
    assert 0 < kept <= harness.backend.sequence_ids


@pytest.mark.parametrize(("common", "shared"), [(101, 101), (100, 0)])
def test_a_prefix_is_shared_if_the_cells_of_its_sliding_window_are_there(common: int, shared: int) -> None:
    harness = BatcherHarness(divisible_tokens=15)
    harness.add([5] * 101, limit=2)  # The backend has the cells of the last 16 of 102 tokens.
    harness.run()
    prompt = [*[5] * common, 9]
    key = harness.add(prompt, limit=1)
    harness.run()
    assert cached_tokens(harness, key) == shared
    assert harness.answers[key].tokens[0] == reference_answer(prompt, 1)


def test_a_prefix_that_has_left_the_sliding_window_is_not_awaited() -> None:
    harness = BatcherHarness(divisible_tokens=15, max_batched_tokens=20)
    [prompt] = prompts_with_long_answers(1, 40)
    long = harness.add(prompt * 3, limit=40)
    while not harness.answers[long].tokens:
        harness.step()
    other = harness.add([*prompt, *prompt[:15], 9], limit=1)
    while harness.answers[other].usage is None:
        harness.step()
    assert harness.running == {long}


def test_a_recurrent_state_is_not_awaited() -> None:
    harness = BatcherHarness(divisible_tokens=0, max_batched_tokens=100)
    harness.add([5] * 400, limit=1)
    harness.add([6] * 50, limit=1)  # The long prompt has half of the step.
    harness.step()
    other = harness.add([*[5] * 90, 9], limit=1)
    harness.step()
    assert harness.answers[other].usage is not None


@pytest.mark.parametrize("max_sequences", [1, 2, 4])
@pytest.mark.parametrize("batched", [16, 512])
def test_choices_of_one_prompt_share_a_recurrent_state(max_sequences: int, batched: int) -> None:
    harness = BatcherHarness(max_sequences=max_sequences, max_batched_tokens=batched, divisible_tokens=0)
    [prompt] = prompts_with_long_answers(1, 6)
    prompt = prompt * 3
    key = harness.add(prompt, limit=6, n=4)
    harness.run()
    computed = sum(map(sum, harness.backend.batches))
    assert 0 <= computed - (len(prompt) + 3 + 4 * 5) < MIN_AWAITED_PREFIX_TOKENS
    assert harness.answers[key].tokens == dict.fromkeys(range(4), reference_answer(prompt, 6))
    harness.assert_nothing_leaked()


def test_choices_share_no_state_that_has_gone_on() -> None:
    harness = BatcherHarness(max_sequences=4, divisible_tokens=0)
    [prompt] = prompts_with_long_answers(1, 6)
    harness.add(prompt * 3, limit=1)
    harness.run()
    key = harness.add([*prompt, *prompt, *prompt, 9], limit=6, n=3)  # The first choice begins at its checkpoint.
    harness.run()
    assert harness.answers[key].tokens == dict.fromkeys(range(3), reference_answer([*prompt, *prompt, *prompt, 9], 6))
    harness.assert_nothing_leaked()


def test_a_short_sequence_is_divided_although_longer_ones_are_not() -> None:
    harness = BatcherHarness(divisible_tokens=15)
    harness.add([7] * 12, limit=1)
    harness.run()
    offload_in_idle_time(harness)
    key = harness.add([*[7] * 8, 9], limit=1)
    harness.run()
    assert cached_tokens(harness, key) == 8


def test_nothing_is_kept_of_a_sequence_that_is_preempted_before_anything_of_it_is_computed() -> None:
    harness = BatcherHarness(cells=120, max_sequences=1, max_batched_tokens=64, reuses_cells=False, divisible_tokens=20)
    harness.add([5] * 80, limit=3)
    harness.run()
    key = harness.add([6] * 45, limit=3)  # More than the free cells, and those of the other one are spent.
    harness.step()
    harness.run()
    assert harness.answers[key].tokens[0] == reference_answer([6] * 45, 3)
    harness.assert_nothing_leaked()
