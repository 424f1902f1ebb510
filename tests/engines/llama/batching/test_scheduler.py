"""Interactive requests go before queued ones, which are preempted for them and still end."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.request import QUEUED_PRIORITY_OFFSET
from dragoman.engines.llama.batching.sequence import RequestKey
from dragoman.engines.llama.native.backend import NO_ADAPTER
from tests.support.batching import MAX_STEPS, BatcherHarness, prompts_with_long_answers
from tests.support.simulated_backend import reference_answer

LONG = 60
PROMPTS = prompts_with_long_answers(6, LONG)


def add_queued(harness: BatcherHarness, count: int) -> list[RequestKey]:
    return [harness.add(prompt, LONG, priority=QUEUED_PRIORITY_OFFSET) for prompt in PROMPTS[:count]]


def assert_own_answers(harness: BatcherHarness, keys: list[RequestKey]) -> None:
    harness.run()
    assert [harness.answers[key].tokens[0] for key in keys] == [reference_answer(prompt, LONG) for prompt in PROMPTS][
        : len(keys)
    ]
    harness.assert_nothing_leaked()


def test_the_newest_queued_request_is_preempted_for_an_interactive_one() -> None:
    harness = BatcherHarness(max_sequences=2)
    queued = add_queued(harness, 2)
    for _ in range(10):
        harness.step()
    urgent = harness.add([3] * 5, limit=30)
    harness.step()
    harness.step()
    assert harness.running == {queued[0], urgent}
    assert harness.answers[urgent].tokens[0]
    assert_own_answers(harness, queued)


def test_each_choice_preempts_one_queued_request() -> None:
    harness = BatcherHarness(max_sequences=4, max_batched_tokens=64)
    queued = add_queued(harness, 4)
    for _ in range(4):
        harness.step()
    urgent = harness.add([3] * 5, limit=30, n=3)
    for _ in range(3):
        harness.step()
    assert [sequence.request.key for sequence in harness.batcher.scheduler.running] == [urgent] * 3 + queued[:1]
    assert_own_answers(harness, queued)


def test_queued_requests_give_up_cells_as_long_as_needed() -> None:
    for reuses_cells in (True, False):
        harness = BatcherHarness(cells=200, max_sequences=8, reuses_cells=reuses_cells)
        queued = add_queued(harness, 3)
        while len(harness.running) < 3:
            harness.step()
        urgent = harness.add([3] * 120, limit=4)
        while harness.answers[urgent].usage is None:
            before = harness.running
            harness.step()
            assert not (urgent in before and urgent not in harness.running and harness.answers[urgent].usage is None)
        assert harness.answers[urgent].tokens[0] == reference_answer([3] * 120, 4)
        assert_own_answers(harness, queued)


def test_no_request_is_preempted_where_that_would_not_help() -> None:
    harness = BatcherHarness(cells=200, max_sequences=8)
    harness.add(PROMPTS[5] * 4, limit=LONG)
    [queued] = add_queued(harness, 1)
    for _ in range(8):
        harness.step()
    harness.add([3] * 150, limit=4)
    for _ in range(10):
        harness.step()
        assert queued in harness.running
    assert_own_answers(harness, [queued])


def test_a_queued_request_waits_for_a_slot_like_any_other() -> None:
    harness = BatcherHarness(max_sequences=1)
    running = harness.add(PROMPTS[0], LONG, priority=255)
    harness.step()
    queued = harness.add([3] * 5, limit=3, priority=QUEUED_PRIORITY_OFFSET)
    more_urgent = harness.add([4] * 5, limit=3, priority=0)
    while harness.answers[running].usage is None:
        assert harness.running == {running}
        harness.step()
    while harness.answers[more_urgent].usage is None:
        assert queued not in harness.running
        harness.step()
    harness.run()


def test_a_long_queued_prompt_is_computed_after_all_interactive_prompts() -> None:
    harness = BatcherHarness(max_sequences=4, max_batched_tokens=100)
    harness.add([4] * 1000, limit=2, priority=QUEUED_PRIORITY_OFFSET)
    harness.step()
    urgent = harness.add([5] * 60, limit=1)
    harness.step()
    assert harness.answers[urgent].usage is not None
    assert harness.backend.batches == [[100], [60, 40]]


def test_a_prefix_that_a_queued_request_computes_is_not_awaited() -> None:
    harness = BatcherHarness(max_sequences=4, max_batched_tokens=100)
    harness.add([4] * 1000, limit=2, priority=QUEUED_PRIORITY_OFFSET)
    harness.step()
    urgent = harness.add([4] * 400, limit=1)
    for _ in range(3):
        harness.step()
    usage = harness.answers[urgent].usage
    assert usage is not None
    assert usage.cached_tokens == 100, "the computed part is shared"


def test_a_queued_request_does_not_take_the_slot_of_a_preempted_one() -> None:
    harness = BatcherHarness(max_sequences=2)
    queued = add_queued(harness, 4)
    for _ in range(4):
        harness.step()
    assert harness.running == set(queued[:2])
    for number in range(6):
        harness.add([10 + number] * 5, limit=3)
        for _ in range(3):
            harness.step()
            assert not harness.running & set(queued[2:])
    assert_own_answers(harness, queued)


def test_queued_requests_run_in_the_slots_that_others_leave() -> None:
    harness = BatcherHarness(max_sequences=2)
    queued = add_queued(harness, 2)
    urgent = harness.add([1] * 5, limit=1)
    for number in range(400):
        if harness.answers[urgent].usage is not None:
            urgent = harness.add([1 + number % 60] * 5, limit=10)
        harness.step()
    assert harness.answers[queued[0]].usage is not None
    assert_own_answers(harness, queued)


def test_another_adapters_request_preempts_a_queued_one_when_its_turn_comes() -> None:
    harness = BatcherHarness(max_sequences=2)
    [adapter] = harness.load_adapters(1)
    queued = add_queued(harness, 2)
    for _ in range(6):
        harness.step()
    urgent = harness.add([3] * 5, limit=5, adapter=adapter)
    harness.step()
    harness.step()
    assert harness.running == {queued[0], urgent}
    assert adapter in harness.backend.adapters_by_step[-2:]
    assert NO_ADAPTER in harness.backend.adapters_by_step[-2:]
    assert_own_answers(harness, queued)


arrivals = st.lists(
    st.tuples(
        st.integers(0, 20),  # steps before it arrives
        st.integers(1, 60).flatmap(lambda token: st.integers(1, 90).map(lambda length: [token] * length)),
        st.integers(1, 60),  # limit
        st.sampled_from([1, 1, 3]),
        st.sampled_from([0, 255, QUEUED_PRIORITY_OFFSET, QUEUED_PRIORITY_OFFSET + 255]),
        st.integers(0, 1),  # adapter
        st.sampled_from("aab"),  # owner
    ),
    min_size=2,
    max_size=12,
)


@settings(max_examples=120, deadline=None)
@given(
    arrivals=arrivals, cells=st.sampled_from([150, 300]), max_sequences=st.integers(1, 6), reuses_cells=st.booleans()
)
def test_interactive_requests_are_not_preempted_while_a_queued_one_runs_and_all_end(
    arrivals: list[tuple[int, list[int], int, int, int, int, str]],
    cells: int,
    max_sequences: int,
    *,
    reuses_cells: bool,
) -> None:
    harness = BatcherHarness(cells=cells, max_sequences=max_sequences, reuses_cells=reuses_cells)
    adapters = [NO_ADAPTER, *harness.load_adapters(1)]
    scheduler = harness.batcher.scheduler
    alone: dict[RequestKey, list[int]] = {}

    def step() -> None:
        before = list(scheduler.running)
        harness.step()
        if any(one in scheduler.waiting and one.request.priority < QUEUED_PRIORITY_OFFSET for one in before):
            assert not any(one.request.priority >= QUEUED_PRIORITY_OFFSET for one in scheduler.running)

    for steps, prompt, limit, n, priority, adapter, owner in arrivals:
        for _ in range(steps):
            step()
        limit = min(limit, cells - len(prompt))
        key = harness.add(prompt, limit, n=n, priority=priority, adapter=adapters[adapter], owner=owner)
        alone[key] = reference_answer(prompt, limit, adapters[adapter])
    for _ in range(MAX_STEPS):
        if harness.batcher.is_idle:
            break
        step()
    for key, tokens in alone.items():
        assert all(answer == tokens for answer in harness.answers[key].tokens.values())
        assert harness.answers[key].usage is not None
    harness.assert_nothing_leaked()
