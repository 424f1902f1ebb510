"""Requests that somebody waits for go before queued ones, which give up slots and cells and end all the same."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.request import QUEUED
from dragoman.engines.llama.adapters import NO_ADAPTER
from dragoman.engines.llama.sequence import JobKey
from tests.support.batching import MOST_STEPS, Harness, long_winded
from tests.support.simulated_backend import answer_alone

LONG = 60
PROMPTS = long_winded(6, LONG)


def add_queued(harness: Harness, count: int) -> list[JobKey]:
    return [harness.add(prompt, LONG, priority=QUEUED) for prompt in PROMPTS[:count]]


def assert_ends_with_its_own_answers(harness: Harness, keys: list[JobKey]) -> None:
    harness.run()
    assert [harness.answers[key].tokens[0] for key in keys] == [answer_alone(prompt, LONG) for prompt in PROMPTS][
        : len(keys)
    ]
    harness.assert_nothing_leaked()


def test_the_youngest_queued_one_gives_its_slot_to_who_is_waited_for() -> None:
    harness = Harness(parallel=2)
    queued = add_queued(harness, 2)
    for _ in range(10):
        harness.step()
    urgent = harness.add([3] * 5, limit=30)
    harness.step()
    harness.step()
    assert harness.running == {queued[0], urgent}
    assert harness.answers[urgent].tokens[0]
    assert_ends_with_its_own_answers(harness, queued)


def test_each_choice_gets_the_slot_of_a_queued_one() -> None:
    harness = Harness(parallel=4, step_tokens=64)
    queued = add_queued(harness, 4)
    for _ in range(4):
        harness.step()
    urgent = harness.add([3] * 5, limit=30, n=3)
    for _ in range(3):
        harness.step()
    assert [sequence.job.key for sequence in harness.batcher.scheduler.running] == [urgent] * 3 + queued[:1]
    assert_ends_with_its_own_answers(harness, queued)


def test_queued_ones_give_up_cells_as_long_as_that_is_needed() -> None:
    for reuses_cells in (True, False):
        harness = Harness(cells=200, parallel=8, reuses_cells=reuses_cells)
        queued = add_queued(harness, 3)
        while len(harness.running) < 3:
            harness.step()
        urgent = harness.add([3] * 120, limit=4)
        while harness.answers[urgent].usage is None:
            before = harness.running
            harness.step()
            assert not (urgent in before and urgent not in harness.running and harness.answers[urgent].usage is None)
        assert harness.answers[urgent].tokens[0] == answer_alone([3] * 120, 4)
        assert_ends_with_its_own_answers(harness, queued)


def test_nobody_is_pushed_back_where_that_would_not_help() -> None:
    harness = Harness(cells=200, parallel=8)
    harness.add(PROMPTS[5] * 4, limit=LONG)
    [queued] = add_queued(harness, 1)
    for _ in range(8):
        harness.step()
    harness.add([3] * 150, limit=4)
    for _ in range(10):
        harness.step()
        assert queued in harness.running
    assert_ends_with_its_own_answers(harness, [queued])


def test_a_queued_one_waits_for_a_slot_like_anybody_else() -> None:
    harness = Harness(parallel=1)
    running = harness.add(PROMPTS[0], LONG, priority=255)
    harness.step()
    queued = harness.add([3] * 5, limit=3, priority=QUEUED)
    more_urgent = harness.add([4] * 5, limit=3, priority=0)
    while harness.answers[running].usage is None:
        assert harness.running == {running}
        harness.step()
    while harness.answers[more_urgent].usage is None:
        assert queued not in harness.running
        harness.step()
    harness.run()


def test_a_long_queued_prompt_is_computed_behind_the_prompts_of_all_others() -> None:
    harness = Harness(parallel=4, step_tokens=100)
    harness.add([4] * 1000, limit=2, priority=QUEUED)
    harness.step()
    urgent = harness.add([5] * 60, limit=1)
    harness.step()
    assert harness.answers[urgent].usage is not None
    assert harness.backend.batches == [[100], [60, 40]]


def test_a_prefix_that_a_queued_one_is_computing_is_not_waited_for() -> None:
    harness = Harness(parallel=4, step_tokens=100)
    harness.add([4] * 1000, limit=2, priority=QUEUED)
    harness.step()
    urgent = harness.add([4] * 400, limit=1)
    for _ in range(3):
        harness.step()
    usage = harness.answers[urgent].usage
    assert usage is not None
    assert usage.cached_tokens == 100, "what is computed already is shared"


def test_none_takes_the_place_of_one_that_was_pushed_back() -> None:
    harness = Harness(parallel=2)
    queued = add_queued(harness, 4)
    for _ in range(4):
        harness.step()
    assert harness.running == set(queued[:2])
    for number in range(6):
        harness.add([10 + number] * 5, limit=3)
        for _ in range(3):
            harness.step()
            assert not harness.running & set(queued[2:])
    assert_ends_with_its_own_answers(harness, queued)


def test_queued_ones_go_on_in_the_slots_that_others_leave() -> None:
    harness = Harness(parallel=2)
    queued = add_queued(harness, 2)
    urgent = harness.add([1] * 5, limit=1)
    for number in range(400):
        if harness.answers[urgent].usage is not None:
            urgent = harness.add([1 + number % 60] * 5, limit=10)
        harness.step()
    assert harness.answers[queued[0]].usage is not None
    assert_ends_with_its_own_answers(harness, queued)


def test_another_adapters_request_gets_the_slot_of_a_queued_one_when_its_turn_comes() -> None:
    harness = Harness(parallel=2)
    [adapter] = harness.load_adapters(1)
    queued = add_queued(harness, 2)
    for _ in range(6):
        harness.step()
    urgent = harness.add([3] * 5, limit=5, adapter=adapter)
    harness.step()
    harness.step()
    assert harness.running == {queued[0], urgent}
    assert adapter in harness.backend.turns[-2:]
    assert NO_ADAPTER in harness.backend.turns[-2:]
    assert_ends_with_its_own_answers(harness, queued)


arrivals = st.lists(
    st.tuples(
        st.integers(0, 20),  # steps before it comes
        st.integers(1, 60).flatmap(lambda token: st.integers(1, 90).map(lambda length: [token] * length)),
        st.integers(1, 60),  # limit
        st.sampled_from([1, 1, 3]),
        st.sampled_from([0, 255, QUEUED, QUEUED + 255]),
        st.integers(0, 1),  # adapter
    ),
    min_size=2,
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(arrivals=arrivals, cells=st.sampled_from([150, 300]), parallel=st.integers(1, 6), reuses_cells=st.booleans())
def test_none_is_pushed_back_while_a_queued_one_runs_and_everything_ends(
    arrivals: list[tuple[int, list[int], int, int, int, int]], cells: int, parallel: int, *, reuses_cells: bool
) -> None:
    harness = Harness(cells=cells, parallel=parallel, reuses_cells=reuses_cells)
    adapters = [NO_ADAPTER, *harness.load_adapters(1)]
    scheduler = harness.batcher.scheduler
    alone: dict[JobKey, list[int]] = {}

    def step() -> None:
        before = list(scheduler.running)
        harness.step()
        if any(one in scheduler.waiting and one.job.priority < QUEUED for one in before):
            assert not any(one.job.priority >= QUEUED for one in scheduler.running)

    for steps, prompt, limit, n, priority, adapter in arrivals:
        for _ in range(steps):
            step()
        limit = min(limit, cells - len(prompt))
        key = harness.add(prompt, limit, n, priority, adapters[adapter])
        alone[key] = answer_alone(prompt, limit, adapters[adapter])
    for _ in range(MOST_STEPS):
        if harness.batcher.idle:
            break
        step()
    for key, tokens in alone.items():
        assert all(answer == tokens for answer in harness.answers[key].tokens.values())
        assert harness.answers[key].usage is not None
    harness.assert_nothing_leaked()
