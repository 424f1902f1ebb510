"""Owners take turns to prefill, and share slots and cells: nobody waits for all that another one has sent."""

from collections import Counter
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.request import QUEUED_PRIORITY_OFFSET
from dragoman.engines.llama.batching.scheduler import PrefillTurns
from dragoman.engines.llama.batching.sequence import ChoiceSequence, RequestKey
from dragoman.engines.llama.native.backend import NO_ADAPTER
from tests.support.batching import MAX_STEPS, BatcherHarness, prompts_with_long_answers
from tests.support.simulated_backend import reference_answer

BUDGET = 100
LONG = 60
PROMPTS = prompts_with_long_answers(8, LONG)


def steps_until_first_token(harness: BatcherHarness, key: RequestKey) -> int:
    for steps in range(1, MAX_STEPS):
        harness.step()
        if harness.answers[key].tokens:
            return steps
    raise AssertionError("the request gets no token")


def add_long_prompts(harness: BatcherHarness, owner: str, count: int = 3) -> list[RequestKey]:
    return [harness.add([1 + number] * 2000, limit=2, owner=owner) for number in range(count)]


def slots(harness: BatcherHarness) -> Counter[str]:
    return Counter(one.owner for one in harness.batcher.scheduler.running)


def test_a_short_request_does_not_wait_for_the_long_prompts_of_another_owner() -> None:
    for steps_before in range(6):
        harness = BatcherHarness(cells=8192, max_batched_tokens=BUDGET)
        add_long_prompts(harness, "alice")
        for _ in range(steps_before):
            harness.step()
        assert steps_until_first_token(harness, harness.add([9], limit=1, owner="bob")) <= 3


def test_a_short_request_does_not_wait_for_long_prompts_beside_answers_of_both_owners() -> None:
    harness = BatcherHarness(cells=8192, max_batched_tokens=BUDGET, max_sequences=8)
    for owner, prompt in zip(("alice", "bob"), PROMPTS, strict=False):
        harness.add(prompt, LONG, owner=owner)
    harness.step()
    add_long_prompts(harness, "alice")
    for _ in range(4):
        harness.step()
    assert steps_until_first_token(harness, harness.add([9], limit=1, owner="bob")) <= 3


def test_a_short_request_does_not_wait_for_long_prompts_of_its_own_owner_either() -> None:
    for steps_before in range(6):
        harness = BatcherHarness(cells=8192, max_batched_tokens=BUDGET)
        add_long_prompts(harness, "alice")
        for _ in range(steps_before):
            harness.step()
        assert steps_until_first_token(harness, harness.add([9], limit=1, owner="alice")) <= 3


def test_long_prompts_of_one_owner_are_computed_one_after_another_in_whole_steps() -> None:
    harness = BatcherHarness(cells=8192, max_batched_tokens=BUDGET)
    for number in range(3):
        harness.add([1 + number] * 950, limit=1, owner="alice")
    harness.run()
    assert harness.backend.batches == [
        *[[BUDGET]] * 9,
        [50, 50],
        *[[BUDGET]] * 9,
        [BUDGET],
        *[[BUDGET]] * 8,
        [50],
    ]


def test_a_long_prompt_ends_beside_an_endless_stream_of_short_ones_of_its_owner() -> None:
    harness = BatcherHarness(cells=8192, max_batched_tokens=BUDGET, max_sequences=8)
    long = harness.add([9] * 10 * BUDGET, limit=1)
    for number in range(60):
        for copy in range(2):
            harness.add([1 + number, 1 + copy] * (BUDGET // 2), limit=1)
        if harness.answers[long].usage is None:
            harness.step()
    assert harness.answers[long].usage is not None
    assert len(harness.backend.batches) <= 2 * 10


def test_two_owners_with_long_prompts_prefill_in_turns() -> None:
    harness = BatcherHarness(cells=8192, max_batched_tokens=BUDGET)
    add_long_prompts(harness, "alice")
    for _ in range(7):
        harness.step()
    bob = harness.add([9] * 5 * BUDGET, limit=1, owner="bob")
    assert steps_until_first_token(harness, bob) <= 2 * 5 + 1


def test_the_priority_of_a_request_counts_among_those_of_its_owner_only() -> None:
    harness = BatcherHarness(cells=8192, max_batched_tokens=BUDGET)
    harness.add([1] * 2000, limit=1, owner="alice", priority=-1000)
    harness.step()
    assert steps_until_first_token(harness, harness.add([9], limit=1, owner="bob", priority=200)) <= 3


def test_queued_prompts_come_after_the_interactive_ones_of_every_owner() -> None:
    harness = BatcherHarness(cells=8192, max_batched_tokens=BUDGET)
    queued = harness.add([8] * 2000, limit=1, owner="bob", priority=QUEUED_PRIORITY_OFFSET)
    harness.step()
    long_prompts = add_long_prompts(harness, "alice", 2)
    while not all(harness.answers[key].tokens for key in long_prompts):
        assert not harness.answers[queued].tokens
        harness.step()
    assert sum(map(len, harness.backend.batches)) <= len(harness.backend.batches) + 2
    harness.run()


def test_an_owner_that_takes_all_slots_gives_one_up_for_another_owner() -> None:
    harness = BatcherHarness(max_sequences=4)
    alice = [harness.add(prompt, LONG, owner="alice") for prompt in PROMPTS[:6]]
    for _ in range(12):
        harness.step()
    assert slots(harness) == {"alice": 4}
    bob = harness.add([9] * 5, limit=30, owner="bob")
    assert steps_until_first_token(harness, bob) <= 3
    assert harness.running == {*alice[:3], bob}
    harness.run()
    assert [harness.answers[key].tokens[0] for key in alice] == [reference_answer(one, LONG) for one in PROMPTS[:6]]
    harness.assert_nothing_leaked()


def test_an_owner_that_takes_all_cells_gives_some_up_for_another_owner() -> None:
    harness = BatcherHarness(cells=200, max_sequences=8)
    for prompt in PROMPTS[:8]:
        harness.add(prompt, LONG, owner="alice")
    for _ in range(20):
        harness.step()
    bob = harness.add([9] * 60, limit=5, owner="bob")
    assert steps_until_first_token(harness, bob) <= 4
    harness.run()
    assert harness.answers[bob].tokens[0] == reference_answer([9] * 60, 5)


def test_three_owners_with_long_prompts_and_one_with_short_ones_all_get_their_turns() -> None:
    harness = BatcherHarness(cells=8192, max_batched_tokens=BUDGET, max_sequences=8)
    keys = [harness.add([1 + number] * 600, limit=1, owner=f"owner {number}") for number in range(3)]
    for number in range(60):
        harness.add([11 + number % 50] * (BUDGET // 4), limit=1, owner="short")
        harness.step()
        if number == 36:
            assert all(harness.answers[key].usage for key in keys)


def test_an_owner_gets_no_more_steps_by_using_more_adapters() -> None:
    harness = BatcherHarness(max_sequences=8)
    adapters = harness.load_adapters(5)
    for adapter in adapters:
        [prompt] = prompts_with_long_answers(1, LONG, adapter)
        harness.add(prompt, LONG, owner="alice", adapter=adapter)
    harness.add(PROMPTS[0], LONG, owner="bob")
    for _ in range(40):
        harness.step()
    assert harness.backend.adapters_by_step[::2] == [adapters[number % 5] for number in range(20)]
    assert set(harness.backend.adapters_by_step[1::2]) == {NO_ADAPTER}


def test_an_adapter_that_only_one_of_two_owners_uses_gets_steps_too() -> None:
    harness = BatcherHarness(max_sequences=8)
    [adapter] = harness.load_adapters(1)
    for owner, prompt in zip(("alice", "bob"), PROMPTS, strict=False):
        harness.add(prompt, LONG, owner=owner)
    [prompt] = prompts_with_long_answers(1, LONG, adapter)
    harness.add(prompt, LONG, owner="alice", adapter=adapter)
    for _ in range(40):
        harness.step()
    steps = Counter(harness.backend.adapters_by_step)
    assert abs(steps[NO_ADAPTER] - steps[adapter]) <= 2


def test_no_owner_that_waits_has_less_than_half_of_what_another_one_has() -> None:
    harness = BatcherHarness(max_sequences=6, cells=4096, max_batched_tokens=64)
    for owner in ("alice", "bob", "carol"):
        for prompt in PROMPTS:
            harness.add(prompt, LONG, owner=owner)
        for _ in range(20):
            harness.step()
    assert set(slots(harness)) == {"alice", "bob", "carol"}
    for _ in range(60):
        harness.step()
        waiting = {one.owner for one in harness.batcher.scheduler.waiting}
        assert len(waiting) == 3
        assert max(slots(harness).values()) <= 2 * min(slots(harness).values()) + 2
    harness.run()


def test_owners_that_share_all_slots_are_seldom_preempted_for_each_other() -> None:
    harness = BatcherHarness(max_sequences=4, cells=4096)
    preempted = ended = 0
    keys: dict[RequestKey, str] = {}
    for number in range(600):
        for owner in ("alice", "bob"):
            if Counter(keys.values())[owner] < 4:
                keys[harness.add([1 + number % 60, number % 7] * 10, limit=5 + number % 40, owner=owner)] = owner
        before = harness.running
        harness.step()
        done = {key for key in keys if harness.answers[key].usage is not None}
        preempted += len(before - harness.running - done)
        ended += len(done)
        keys = {key: owner for key, owner in keys.items() if key not in done}
    assert preempted < ended / 10


def test_the_only_sequence_of_an_owner_is_not_preempted_for_another_owner() -> None:
    harness = BatcherHarness(cells=200, max_sequences=2)
    alice = harness.add(PROMPTS[0] * 8, limit=30, owner="alice")
    harness.step()
    for number in range(10):
        bob = harness.add([9, 10, 1 + number] * 10, limit=10, owner="bob")
        while not harness.answers[bob].usage:
            assert alice in harness.running or harness.answers[alice].usage
            harness.step()


def test_a_large_request_is_not_starved_by_small_ones_of_other_owners() -> None:
    harness = BatcherHarness(cells=200, max_sequences=8)
    small: list[RequestKey] = []
    large = None
    for number in range(400):
        if sum(harness.answers[key].usage is None for key in small) < 12:
            small.append(harness.add([1 + number % 60] * 20, limit=20, owner=f"small {number % 3}"))
        if number == 50:
            large = harness.add([9] * 180, limit=3, owner="large")
        harness.step()
    assert large is not None
    assert harness.answers[large].tokens[0] == reference_answer([9] * 180, 3)


def test_an_owner_that_was_idle_has_no_claim_to_the_time_it_missed() -> None:
    queue = PrefillTurns()
    for _ in range(1000):
        assert list(queue.order([], set())) == []
        queue.serve("alice", BUDGET)
    assert queue.start_tag("alice") - queue.start_tag("bob") == BUDGET


def test_owners_that_are_gone_are_forgotten() -> None:
    queue = PrefillTurns()
    for number in range(10_000):
        assert list(queue.order([], set())) == []
        queue.serve("alice", BUDGET)
        queue.serve(f"owner {number}", 1)
    assert len(queue._finish_tags) <= 300


class TurnsHarness(BatcherHarness):
    """Ample slots and cells, and the prompt tokens that each owner was served."""

    def __init__(self) -> None:
        super().__init__(cells=100_000, max_sequences=64, max_batched_tokens=BUDGET)
        self._sequences: list[ChoiceSequence] = []

    def add_prompt(self, length: int, owner: str) -> RequestKey:
        number = len(self.answers)
        key = self.add([1 + number % 60, 1 + number // 60, *[3] * length], limit=1, owner=owner)
        self._sequences.append(self.batcher.scheduler.waiting[-1])
        return key

    def step_and_count(self) -> tuple[Counter[str], Counter[str]]:
        """Step, and return what each owner had pending before and was served."""
        before = {id(one): one.computed for one in self._sequences}
        pending = Counter[str]()
        for one in self._sequences:
            if self.answers[one.request.key].usage is None:
                pending[one.owner] += one.pending
        self.step()
        served = Counter[str]()
        for one in self._sequences:
            ended = self.answers[one.request.key].usage is not None
            served[one.owner] += (len(one.request.prompt) if ended else one.computed) - before[id(one)]
            if ended:
                one.computed = len(one.request.prompt)
        return pending, served


arrivals = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from("abcd"), st.integers(0, 6 * BUDGET)), min_size=2, max_size=20
)


@settings(max_examples=60, deadline=None)
@given(arrivals=arrivals)
def test_whoever_waits_gets_as_much_as_any_other_owner_and_no_step_is_wasted(
    arrivals: Sequence[tuple[int, str, int]],
) -> None:
    harness = TurnsHarness()
    lead: Counter[tuple[str, str]] = Counter()
    """For each pair of owners that have waited for long: how much more the first one was served."""

    def step() -> None:
        pending, served = harness.step_and_count()
        # The last token of a prompt may be computed with the answers, in a step between those of prompts.
        is_decode_step = set(harness.backend.batches[-1]) == {1}
        assert is_decode_step or served.total() == min(BUDGET, pending.total())
        for one in "abcd":
            for other in "abcd":
                waits = pending[one] and pending[other]
                lead[one, other] = lead[one, other] + served[one] - served[other] if waits else 0
                # An owner that ends its last prompt in this step had no more to be served.
                if pending[other] > served[other]:
                    assert lead[one, other] <= 3 * BUDGET

    for steps, owner, length in arrivals:
        for _ in range(steps):
            if not harness.batcher.is_idle:
                step()
        harness.add_prompt(length, owner)
    while not harness.batcher.is_idle:
        step()


@settings(max_examples=60, deadline=None)
@given(arrivals=arrivals, when=st.integers(0, 30))
def test_a_short_request_waits_for_one_chunk_of_each_other_owner_at_most(
    arrivals: Sequence[tuple[int, str, int]], when: int
) -> None:
    harness = TurnsHarness()
    steps = 0
    pending = list(arrivals)
    while steps < when:
        while pending and pending[0][0] <= steps:
            _, owner, length = pending.pop(0)
            harness.add_prompt(length, owner)
        harness.step()
        steps += 1
    key = harness.add_prompt(0, "late")
    for _, owner, length in pending:
        harness.add_prompt(length, owner)
    assert steps_until_first_token(harness, key) <= 2 * len({owner for _, owner, _ in arrivals}) + 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.integers(0, 2)), max_size=20))
def test_waiting_sequences_are_looked_at_exactly_when_one_may_get_a_slot(requests: list[tuple[str, bool, int]]) -> None:
    harness = BatcherHarness(max_sequences=3)
    scheduler = harness.batcher.scheduler
    for owner, queued, steps in requests:
        harness.add(PROMPTS[0], limit=9, owner=owner, priority=QUEUED_PRIORITY_OFFSET if queued else 0)
        for _ in range(steps):
            harness.step()
        held = slots(harness)
        a_queued_one_runs = any(one.is_queued for one in scheduler.running)
        may = [
            len(scheduler.running) < 3
            or (not one.is_queued and (a_queued_one_runs or max(held.values()) >= 2 * (held[one.owner] + 1)))
            for one in scheduler.waiting
        ]
        assert scheduler.may_admit() >= any(may)
        if not a_queued_one_runs:
            assert scheduler.may_admit() == any(may)
    harness.run()
    assert not scheduler.may_admit()
