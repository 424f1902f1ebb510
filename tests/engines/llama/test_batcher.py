"""Whatever arrives, ends, is cancelled or pushed back in whatever order: everyone gets the answer they get alone."""

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.events import Delta, Finished, Usage
from dragoman.core.request import SamplingParams
from dragoman.engines.llama.batcher import Batcher
from dragoman.engines.llama.sequence import Job, JobKey
from tests.support.simulated_backend import SimulatedBackend, SimulatedVocabulary, answer_alone

GREEDY = SamplingParams(temperature=0.0)
MOST_STEPS = 20_000

prefixes = st.sampled_from([[7] * 40, [7] * 20 + [8] * 30, list(range(1, 50)), []])
prompts = st.builds(lambda prefix, rest: prefix + rest, prefixes, st.lists(st.integers(1, 63), min_size=1, max_size=30))


@dataclass
class Answer:
    """What a job has published so far."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    finished: dict[int, str] = field(default_factory=dict)
    usage: Usage | None = None


class Harness:
    """A batcher over the simulated model, and what it published by job."""

    def __init__(
        self, *, cells: int = 2048, parallel: int = 4, step_tokens: int = 32, finished_cells: int = 512
    ) -> None:
        self.backend = SimulatedBackend(cells)
        self.batcher = Batcher(
            self.backend,
            SimulatedVocabulary(),
            parallel=parallel,
            step_tokens=step_tokens,
            finished_cells=finished_cells,
        )
        self.answers: dict[JobKey, Answer] = {}

    def add(self, prompt: list[int], limit: int = 20, n: int = 1, priority: int = 0) -> JobKey:
        key = (0, len(self.answers))
        self.answers[key] = Answer()
        job = Job(key, np.array(prompt, dtype=np.int32), GREEDY, limit, priority=priority)
        self.batcher.add(job, n, seed=1)
        return key

    def step(self) -> None:
        for key, event in self.batcher.step():
            answer = self.answers[key]
            match event:
                case Delta(index, _, token_ids):
                    answer.tokens.setdefault(index, []).extend(token_ids)
                case Finished(index, reason):
                    answer.finished[index] = reason
                case Usage():
                    answer.usage = event
        assert self.batcher.cache.ledger.used == self.backend.used, "the ledger counts what the backend holds"

    def run(self) -> None:
        for _ in range(MOST_STEPS):
            if self.batcher.idle:
                return
            self.step()
        raise AssertionError("the batcher does not come to an end")

    def assert_nothing_leaked(self) -> None:
        assert not self.batcher.scheduler.running
        assert not self.batcher.scheduler.waiting
        self.batcher.cache.clear()
        assert self.batcher.cache.ledger.free == self.backend.cells
        assert self.batcher.cache.free_sequence_ids == 256
        assert self.backend.used == 0


@dataclass(frozen=True)
class Add:
    prompt: list[int]
    limit: int
    n: int
    priority: int


@dataclass(frozen=True)
class CancelOne:
    which: int


@dataclass(frozen=True)
class Steps:
    count: int


actions = st.lists(
    st.one_of(
        st.builds(Add, prompts, st.integers(1, 60), st.sampled_from([1, 1, 1, 3]), st.sampled_from([0, 0, 0, 1])),
        st.builds(CancelOne, st.integers(0, 30)),
        st.builds(Steps, st.integers(1, 12)),
    ),
    min_size=5,
    max_size=40,
)


@settings(max_examples=500, deadline=None)
@given(actions=actions, cells=st.sampled_from([150, 200, 400, 2048]), parallel=st.sampled_from([1, 3, 8]))
def test_any_interleaving_gives_everyone_their_own_answer_and_leaks_nothing(
    actions: list[Add | CancelOne | Steps], cells: int, parallel: int
) -> None:
    harness = Harness(cells=cells, parallel=parallel, finished_cells=cells // 4)
    added: dict[JobKey, Add] = {}
    cancelled: set[JobKey] = set()
    for action in actions:
        match action:
            case Add(prompt, limit, n, priority):
                limit = min(limit, cells - len(prompt))
                added[harness.add(prompt, limit, n, priority)] = Add(prompt, limit, n, priority)
            case CancelOne(which) if added:
                key = list(added)[which % len(added)]
                if harness.answers[key].usage is None:
                    harness.batcher.cancel(key)
                    cancelled.add(key)
            case Steps(count):
                for _ in range(count):
                    harness.step()
    harness.run()
    for key, request in added.items():
        answer, alone = harness.answers[key], answer_alone(request.prompt, request.limit)
        if key in cancelled:
            assert answer.usage is None
            assert all(alone[: len(tokens)] == tokens for tokens in answer.tokens.values())
        else:
            assert answer.tokens == dict.fromkeys(range(request.n), alone)
            assert sorted(answer.finished) == list(range(request.n))
            assert answer.usage is not None
            assert answer.usage.prompt_tokens == len(request.prompt)
            assert answer.usage.completion_tokens == request.n * len(alone)
            assert 0 <= answer.usage.cached_tokens < len(request.prompt)
    harness.assert_nothing_leaked()


def test_requests_arriving_together_compute_their_common_prefix_once() -> None:
    harness = Harness(parallel=8, step_tokens=64)
    prefix = [3, 9, 27] * 100
    keys = [harness.add([*prefix, 1 + number], limit=4) for number in range(8)]
    harness.run()
    usages = [harness.answers[key].usage for key in keys]
    assert [usage.cached_tokens for usage in usages if usage] == [0] + [len(prefix)] * 7
    assert harness.backend.used <= len(prefix) + 8 * (1 + 4)


def test_a_finished_sequence_serves_the_next_turn_of_its_conversation() -> None:
    harness = Harness()
    first = harness.add([5] * 50, limit=10)
    harness.run()
    conversation = [5] * 50 + harness.answers[first].tokens[0] + [6, 6, 6]
    second = harness.add(conversation, limit=3)
    harness.run()
    usage = harness.answers[second].usage
    assert usage is not None
    assert usage.cached_tokens == 50 + len(harness.answers[first].tokens[0]) - 1


def test_several_choices_compute_their_prompt_once() -> None:
    harness = Harness(parallel=8)
    key = harness.add(list(range(1, 60)), limit=5, n=4)
    harness.run()
    usage = harness.answers[key].usage
    assert usage is not None
    assert usage.cached_tokens == 0
    assert harness.backend.used <= 59 + 4 * 6


def test_a_long_prompt_never_stalls_a_running_answer() -> None:
    harness = Harness(parallel=4, step_tokens=32)
    short = harness.add([1, 2], limit=60)
    harness.step()
    harness.add([4] * 600, limit=2)
    before = len(harness.answers[short].tokens[0])
    alone = len(answer_alone([1, 2], 60))
    for made in range(1, min(10, alone - before)):
        harness.step()
        assert len(harness.answers[short].tokens[0]) == before + made


def test_the_youngest_is_pushed_back_when_cells_run_out_and_ends_with_the_same_answer() -> None:
    long_winded = [prompt for first in range(1, 64) if len(answer_alone(prompt := [first] * 20, 100)) > 60][:4]
    harness = Harness(cells=150, parallel=4, finished_cells=0)
    keys = [harness.add(prompt, limit=100) for prompt in long_winded]
    pushed_back: set[JobKey] = set()
    for _ in range(MOST_STEPS):
        if harness.batcher.idle:
            break
        harness.step()
        waiting = {sequence.job.key for sequence in harness.batcher.scheduler.waiting if sequence.generated}
        pushed_back |= waiting
    assert keys[-1] in pushed_back
    assert keys[0] not in pushed_back
    assert [harness.answers[key].tokens[0] for key in keys] == [answer_alone(prompt, 100) for prompt in long_winded]


def test_a_lower_priority_number_gets_the_next_slot() -> None:
    harness = Harness(parallel=1)
    harness.add([1] * 5, limit=30)
    harness.step()
    late = harness.add([2] * 5, limit=3, priority=5)
    urgent = harness.add([3] * 5, limit=3, priority=1)
    while harness.answers[urgent].usage is None:
        harness.step()
    assert harness.answers[late].tokens == {}


def test_cached_sequences_never_hold_more_cells_than_they_may() -> None:
    harness = Harness(cells=2048, finished_cells=100)
    for number in range(20):
        harness.add([number + 1] * 40, limit=3)
        harness.run()
    assert harness.batcher.cache.ledger.used <= 100
