"""In any interleaving of arrivals, ends, cancellations and preemptions, each request gets the answer it gets alone."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.request import QUEUED_PRIORITY_OFFSET
from dragoman.engines.llama.batching.sequence import RequestKey
from dragoman.engines.llama.native.backend import NO_ADAPTER
from tests.support.batching import MAX_STEPS, BatcherHarness, prompts_with_long_answers
from tests.support.simulated_backend import ALL_TOKENS, reference_answer

prefixes = st.sampled_from([[7] * 40, [7] * 20 + [8] * 30, list(range(1, 50)), []])
prompts = st.builds(lambda prefix, rest: prefix + rest, prefixes, st.lists(st.integers(1, 63), min_size=1, max_size=30))
WITH_SHARED_SYSTEM = 90 + 30 + 2 * (30 + 90 // 3)
"""Three times 30 tokens behind the same 90. Two hold the numbers of those, a third of what simulated cells take."""


@dataclass(frozen=True)
class Add:
    prompt: list[int]
    limit: int
    n: int
    priority: int
    adapter_slot: int
    """The position of its adapter among the loaded ones. The first one is the base model."""
    resumed_tokens: int
    """Tokens of each choice that an earlier attempt generated. The last choice has twice as many."""
    owner: str


@dataclass(frozen=True)
class CancelRequest:
    index: int


@dataclass(frozen=True)
class ReplaceAdapter:
    """Unload an adapter that may be in use, and load another one in its place."""

    slot: int


@dataclass(frozen=True)
class BackendKind:
    reuses_cells: bool = True
    separate_lora_backend: bool = False
    """Whether sequences with an adapter are computed by another backend."""
    divisible_tokens: int = ALL_TOKENS
    partitions: int = 1
    step_cells: int = 0


@dataclass(frozen=True)
class RunSteps:
    count: int


actions = st.lists(
    st.one_of(
        st.builds(
            Add,
            prompt=prompts,
            limit=st.integers(1, 60),
            n=st.sampled_from([1, 1, 1, 3]),
            priority=st.sampled_from([0, 0, 0, 1, QUEUED_PRIORITY_OFFSET, QUEUED_PRIORITY_OFFSET + 1]),
            adapter_slot=st.integers(0, 3),
            resumed_tokens=st.sampled_from([0, 0, 1, 10, 40]),
            owner=st.sampled_from("aab"),
        ),
        st.builds(ReplaceAdapter, st.integers(1, 3)),
        st.builds(CancelRequest, st.integers(0, 30)),
        st.builds(RunSteps, st.integers(1, 12)),
    ),
    min_size=5,
    max_size=40,
)


backends = st.sampled_from(
    [
        BackendKind(),
        BackendKind(reuses_cells=False),
        BackendKind(separate_lora_backend=True),
        BackendKind(divisible_tokens=0),
        BackendKind(divisible_tokens=0, reuses_cells=False),
        BackendKind(divisible_tokens=15),
        BackendKind(partitions=3, step_cells=40),
        BackendKind(partitions=2, separate_lora_backend=True),
    ]
)


@settings(max_examples=250, deadline=None)
@given(
    actions=actions,
    cells=st.sampled_from([150, 200, 400, 2048]),
    max_sequences=st.sampled_from([1, 3, 8]),
    saved_tokens=st.sampled_from([0, 100, 10_000]),
    backends=backends,
    adapters=st.sampled_from([0, 1, 3]),
)
def test_any_interleaving_gives_each_request_its_own_answer_and_leaks_nothing(
    actions: list[Add | CancelRequest | ReplaceAdapter | RunSteps],
    cells: int,
    max_sequences: int,
    saved_tokens: int,
    backends: BackendKind,
    adapters: int,
) -> None:
    harness = BatcherHarness(cells=cells, max_sequences=max_sequences, host_cache_tokens=saved_tokens, **vars(backends))
    loaded = [NO_ADAPTER, *harness.load_adapters(adapters)]
    added: dict[RequestKey, tuple[Add, list[int]]] = {}
    cancelled: set[RequestKey] = set()
    for action in actions:
        match action:
            case Add(prompt, limit, n, priority, slot, resumed, owner):
                limit = min(limit, cells - len(prompt))
                adapter = loaded[slot % len(loaded)]
                alone = reference_answer(prompt, limit, adapter)
                known = (*(n - 1) * [tuple(alone[:resumed])], tuple(alone[: 2 * resumed]))
                key = harness.add(
                    prompt,
                    limit,
                    n=n,
                    priority=priority,
                    adapter=adapter,
                    resume_token_ids=known if resumed else (),
                    owner=owner,
                )
                added[key] = action, alone
            case CancelRequest(which) if added:
                key = list(added)[which % len(added)]
                if harness.answers[key].usage is None:
                    harness.batcher.cancel(key)
                    cancelled.add(key)
            case ReplaceAdapter(slot) if slot < len(loaded):
                harness.batcher.unload_adapter(loaded[slot])
                [loaded[slot]] = harness.load_adapters(1)
            case RunSteps(count):
                for _ in range(count):
                    harness.step()
    harness.run()
    assert harness.adapters == set(loaded[1:]), "an unloaded adapter is freed when its last request has ended"
    for key, (request, alone) in added.items():
        answer = harness.answers[key]
        if key in cancelled:
            assert answer.usage is None
            assert all(alone[: len(tokens)] == tokens for tokens in answer.tokens.values())
        else:
            assert answer.tokens == dict.fromkeys(range(request.n), alone)
            assert sorted(answer.finished) == list(range(request.n))
            assert answer.usage is not None
            assert answer.usage.prompt_tokens == len(request.prompt)
            assert answer.usage.completion_tokens == request.n * len(alone)
            assert 0 <= answer.usage.cached_tokens < len(request.prompt) + (request.resumed_tokens > 0)
    harness.assert_nothing_leaked()


def test_requests_arriving_together_compute_their_common_prefix_once() -> None:
    harness = BatcherHarness(max_sequences=8, max_batched_tokens=64)
    prefix = [3, 9, 27] * 100
    keys = [harness.add([*prefix, 1 + number], limit=4) for number in range(8)]
    harness.run()
    usages = [harness.answers[key].usage for key in keys]
    assert [usage.cached_tokens for usage in usages if usage] == [0] + [len(prefix)] * 7
    assert harness.backend.used_cells <= len(prefix) + 8 * (1 + 4)


def test_a_finished_sequence_is_reused_by_the_next_turn_of_its_conversation() -> None:
    harness = BatcherHarness()
    first = harness.add([5] * 50, limit=10)
    harness.run()
    conversation = [5] * 50 + harness.answers[first].tokens[0] + [6, 6, 6]
    second = harness.add(conversation, limit=3)
    harness.run()
    usage = harness.answers[second].usage
    assert usage is not None
    assert usage.cached_tokens == 50 + len(harness.answers[first].tokens[0]) - 1


def test_several_choices_compute_their_prompt_once() -> None:
    harness = BatcherHarness(max_sequences=8)
    key = harness.add(list(range(1, 60)), limit=5, n=4)
    harness.run()
    usage = harness.answers[key].usage
    assert usage is not None
    assert usage.cached_tokens == 0
    assert harness.backend.used_cells <= 59 + 4 * 6


def test_a_long_prompt_keeps_a_running_answer_waiting_for_one_step_at_a_time() -> None:
    harness = BatcherHarness(max_sequences=4, max_batched_tokens=100)
    short = harness.add([1, 2], limit=60)
    harness.step()
    harness.add([4] * 600, limit=2)
    before = len(harness.answers[short].tokens[0])
    for turn in range(1, 6):
        harness.step()
        harness.step()
        assert len(harness.answers[short].tokens[0]) == before + turn


def test_prefill_and_decoding_never_share_a_step() -> None:
    # Without drafts, which make the chunks of decoding sequences longer.
    harness = BatcherHarness(max_sequences=4, max_batched_tokens=32, max_draft_tokens=0)
    for number in range(8):
        harness.add([number + 1] * 50 * (number + 1), limit=40)
    harness.run()
    assert all(sum(chunks) <= 32 for chunks in harness.backend.batches)
    assert not [chunks for chunks in harness.backend.batches if 1 in chunks and max(chunks) > 1 and chunks[0] == 1]


def test_the_newest_sequence_is_preempted_when_cells_run_out_and_gives_the_same_answer() -> None:
    prompts_with_long_answer = [
        prompt for first in range(1, 64) if len(reference_answer(prompt := [first] * 20, 100)) > 60
    ][:4]
    harness = BatcherHarness(cells=150, max_sequences=4, host_cache_tokens=0)
    keys = [harness.add(prompt, limit=100) for prompt in prompts_with_long_answer]
    preempted: set[RequestKey] = set()
    for _ in range(MAX_STEPS):
        if harness.batcher.is_idle:
            break
        harness.step()
        waiting = {sequence.request.key for sequence in harness.batcher.scheduler.waiting if sequence.generated}
        preempted |= waiting
    assert keys[-1] in preempted
    assert keys[0] not in preempted
    assert [harness.answers[key].tokens[0] for key in keys] == [
        reference_answer(prompt, 100) for prompt in prompts_with_long_answer
    ]


def test_a_lower_priority_number_gets_the_next_slot() -> None:
    harness = BatcherHarness(max_sequences=1)
    harness.add([1] * 5, limit=30)
    harness.step()
    late = harness.add([2] * 5, limit=3, priority=5)
    urgent = harness.add([3] * 5, limit=3, priority=1)
    while harness.answers[urgent].usage is None:
        harness.step()
    assert harness.answers[late].tokens == {}


def test_finished_sequences_keep_no_cells_beside_running_ones() -> None:
    harness = BatcherHarness(cells=2048)
    for number in range(20):
        harness.add([number + 1] * 40, limit=3)
        harness.run()
    lasting = next([first] * 20 for first in range(1, 64) if len(reference_answer([first] * 20, 20)) == 20)
    harness.add(lasting, limit=20)
    harness.step()
    cache = harness.batcher.cache
    assert cache.available(harness.batcher.scheduler.running) == cache.allocator.free


def test_a_sequence_that_lost_its_cells_is_restored_instead_of_computed() -> None:
    harness = BatcherHarness(cells=200)
    harness.add([5] * 100, limit=1)
    harness.run()
    harness.add([6] * 150, limit=1)
    harness.run()
    again = harness.add([5] * 100, limit=1)
    harness.run()
    usage = harness.answers[again].usage
    assert usage is not None
    assert usage.cached_tokens == 99
    assert harness.answers[again].tokens[0] == reference_answer([5] * 100, 1)


def test_only_cells_that_no_other_sequence_holds_are_offloaded() -> None:
    harness = BatcherHarness(cells=400, host_cache_tokens=1000)
    system = [7] * 90
    keys = [harness.add([*system, *[number] * 30], limit=1) for number in (1, 2, 3)]
    harness.run()
    harness.add([8] * 350, limit=1)
    harness.run()
    assert harness.batcher.cache.host_cache.tokens == WITH_SHARED_SYSTEM
    again = [harness.add([*system, *[number] * 30], limit=1) for number in (1, 2, 3)]
    harness.run()
    for first, second in zip(keys, again, strict=True):
        usage = harness.answers[second].usage
        assert usage is not None
        assert usage.cached_tokens == len(system) + 29
        assert harness.answers[second].tokens == harness.answers[first].tokens


def test_idle_time_offloads_finished_sequences_and_each_token_once() -> None:
    harness = BatcherHarness(cells=2048)
    system = [7] * 90
    for number in (1, 2, 3):
        harness.add([*system, *[number] * 30], limit=1)
    harness.run()
    while harness.batcher.use_idle_time():
        pass
    assert harness.batcher.cache.host_cache.tokens == WITH_SHARED_SYSTEM


def test_nothing_is_offloaded_beyond_the_limit() -> None:
    harness = BatcherHarness(cells=200, host_cache_tokens=150)
    for number in range(1, 8):
        harness.add([number] * 100, limit=1)
        harness.run()
        assert harness.batcher.cache.host_cache.tokens <= 150


def test_an_adapter_shares_nothing_with_the_base_model_or_another_adapter() -> None:
    harness = BatcherHarness()
    first, second = harness.load_adapters(2)
    prompt = [5] * 100
    for adapter in (NO_ADAPTER, first, second, NO_ADAPTER, first, second):
        key = harness.add(prompt, limit=1, adapter=adapter)
        harness.run()
        usage = harness.answers[key].usage
        assert usage is not None
        assert usage.cached_tokens == (0 if int(key[1]) < 3 else len(prompt) - 1)
        assert harness.answers[key].tokens[0] == reference_answer(prompt, 1, adapter)


def test_a_prefix_that_another_adapter_is_computing_is_not_waited_for() -> None:
    harness = BatcherHarness(max_sequences=4, max_batched_tokens=16)
    [adapter] = harness.load_adapters(1)
    harness.add([5] * 200, limit=2)
    harness.add([5] * 200, limit=2, adapter=adapter)
    for _ in range(4):
        harness.step()
    assert harness.backend.adapters_by_step == [NO_ADAPTER, adapter] * 2


def test_two_busy_adapters_take_every_second_step_each() -> None:
    harness = BatcherHarness(max_sequences=8)
    [adapter] = harness.load_adapters(1)
    for prompt in prompts_with_long_answers(3, 40):
        harness.add(prompt, limit=40)
    [only] = prompts_with_long_answers(1, 40, adapter)
    harness.add(only, limit=40, adapter=adapter)
    for _ in range(60):
        harness.step()
    assert harness.backend.adapters_by_step == [NO_ADAPTER, adapter] * 30


def test_among_many_adapters_none_waits_longer_than_one_round() -> None:
    harness = BatcherHarness(max_sequences=8)
    adapters = harness.load_adapters(5)
    for number, adapter in enumerate(adapters):
        harness.add([number + 1] * 100, limit=30, adapter=adapter)
    for _ in range(40):
        harness.step()
    turns = harness.backend.adapters_by_step
    assert all(set(turns[start : start + 5]) == set(adapters) for start in range(0, 35, 5))


def test_an_adapter_with_endless_requests_starves_no_other() -> None:
    harness = BatcherHarness(max_sequences=8, cells=400)
    [adapter] = harness.load_adapters(1)
    busy: list[RequestKey] = []
    waiting_key = None
    for number in range(600):
        if sum(harness.answers[key].usage is None for key in busy) < 12:
            busy.append(harness.add([1 + number % 60] * 30, limit=20))
        if number == 100:
            waiting_key = harness.add([9] * 300, limit=3, adapter=adapter)
        harness.step()
    assert waiting_key is not None
    assert harness.answers[waiting_key].tokens[0] == reference_answer([9] * 300, 3, adapter)


def test_requests_of_one_adapter_are_still_computed_together_when_others_arrive_between_them() -> None:
    harness = BatcherHarness(max_sequences=8, max_batched_tokens=64)
    [adapter] = harness.load_adapters(1)
    for number in range(6):
        harness.add([number + 1] * 10, limit=2, adapter=adapter if number % 2 else NO_ADAPTER)
    harness.step()
    harness.step()
    assert harness.backend.batches == [[10, 10, 10], [10, 10, 10]]


def test_an_adapter_in_use_is_unloaded_when_its_last_answer_is_complete() -> None:
    harness = BatcherHarness()
    [adapter] = harness.load_adapters(1)
    [prompt] = prompts_with_long_answers(1, 20, adapter)
    key = harness.add(prompt, limit=20, adapter=adapter)
    harness.step()
    harness.batcher.unload_adapter(adapter)
    assert harness.backend.adapters == {adapter}
    harness.run()
    assert harness.answers[key].tokens[0] == reference_answer(prompt, 20, adapter)
    assert harness.backend.adapters == set()
    assert harness.backend.used_cells == 0, "no later sequence can share its cells"


def test_an_adapter_is_unloaded_when_its_last_request_is_cancelled() -> None:
    harness = BatcherHarness()
    [adapter] = harness.load_adapters(1)
    key = harness.add([5] * 20, limit=20, adapter=adapter)
    harness.step()
    harness.batcher.unload_adapter(adapter)
    harness.batcher.cancel(key)
    assert harness.backend.adapters == set()
