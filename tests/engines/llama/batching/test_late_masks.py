"""Masks that take longer than a step, with the simulated model."""

import random
import threading
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from dragoman.engines.llama.batching.sequence import EngineRequest, RequestKey
from dragoman.output.constraint import GrammarConstraint, MaskWorker, TokenMask
from tests.support.batching import GREEDY, BatcherHarness, PublishedAnswer
from tests.support.simulated_backend import VOCABULARY_SIZE
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

PROMPTS = [list(range(first, first + 9)) for first in (1, 11, 21, 31)]


class HeldConstraint(GrammarConstraint):
    """A grammar of every text, whose masks are computed while `open_gate` is set."""

    def __init__(self, open_gate: threading.Event) -> None:
        self.is_ready, self._masks_until_quick = True, 0
        self.open_gate = open_gate
        self.computed = 0

    def copy(self, *, fast_forward: bool = True) -> GrammarConstraint:
        return HeldConstraint(self.open_gate)

    @property
    def is_complete(self) -> bool:
        return False

    def compute_mask(self) -> None:
        assert self.open_gate.wait(TEST_TIMEOUT_SECONDS)
        self.computed += 1

    def allowed(self) -> TokenMask:
        assert self.is_ready
        return np.ones(VOCABULARY_SIZE, dtype=np.bool_)

    def accept(self, token: int) -> None:
        assert self.is_ready

    def count_allowed(self, tokens: Sequence[int]) -> int:
        return len(tokens)

    def forced(self) -> list[int]:
        return []


def add_held(harness: BatcherHarness, prompt: list[int], gate: threading.Event, owner: str) -> RequestKey:
    """Add a request with a grammar."""
    key = (1, len(harness.answers))
    harness.answers[key] = PublishedAnswer()
    tokens = np.array(prompt, dtype=np.int32)
    request = EngineRequest(key, tokens, GREEDY, 12, owner=owner, constraint=HeldConstraint(gate))
    harness.batcher.add(request, 1, 1)
    return key


def expected(prompt: list[int]) -> PublishedAnswer:
    """The answer without a grammar, alone."""
    harness = BatcherHarness()
    key = harness.add(prompt, 12)
    while not harness.batcher.is_idle:
        harness.step()
    return harness.answers[key]


def test_sequences_do_not_wait_for_the_mask_of_another() -> None:
    gate = threading.Event()
    harness = BatcherHarness()
    held = add_held(harness, PROMPTS[0], gate, "a")
    others = [harness.add(prompt, 12, owner="b") for prompt in PROMPTS[1:]]
    for _ in range(40):
        harness.step()
    assert [harness.answers[key] for key in others] == [expected(prompt) for prompt in PROMPTS[1:]]
    assert harness.answers[held] == PublishedAnswer()
    gate.set()
    while not harness.batcher.is_idle:
        harness.step()
    assert harness.answers[held] == expected(PROMPTS[0])


@pytest.mark.parametrize("seed", range(8))
def test_late_masks_change_no_answer_whatever_is_preempted_or_cancelled(seed: int) -> None:
    source, gate = random.Random(seed), threading.Event()
    harness = BatcherHarness(cells=40, host_cache_tokens=source.choice((0, 64)))
    held = {add_held(harness, prompt, gate, str(number % 2)): prompt for number, prompt in enumerate(PROMPTS)}
    cancelled = source.choice(list(held))
    plain = harness.add(PROMPTS[1], 12, owner="b")
    for step in range(2000):
        if harness.batcher.is_idle:
            break
        gate.set() if source.random() < 0.7 else gate.clear()
        if step == 5:
            harness.batcher.cancel(cancelled)
        harness.step()
    gate.set()
    assert harness.batcher.is_idle
    for key, prompt in held.items():
        assert key == cancelled or harness.answers[key] == expected(prompt)
    assert harness.answers[plain] == expected(PROMPTS[1])


def _five_back(context: Iterable[int]) -> int:
    return list(context)[-5] % VOCABULARY_SIZE


@pytest.mark.parametrize("seed", range(4))
def test_a_draft_ends_where_a_mask_is_expected_to_be_late(seed: int) -> None:
    source = random.Random(seed)

    class SometimesSlow(HeldConstraint):
        @property
        def is_slow(self) -> bool:
            return source.random() < 0.3

        def copy(self, *, fast_forward: bool = True) -> GrammarConstraint:
            return SometimesSlow(self.open_gate)

    gate = threading.Event()
    gate.set()
    harness = BatcherHarness(model=_five_back, max_draft_tokens=8)
    prompt = np.array([1, 2, 3, 4, 5] * 4, dtype=np.int32)
    harness.answers[1, 0] = PublishedAnswer()
    harness.batcher.add(EngineRequest((1, 0), prompt, GREEDY, 40, constraint=SometimesSlow(gate)), 1, 1)
    harness.run()
    assert harness.answers[1, 0].tokens == {0: [1, 2, 3, 4, 5] * 8}
    assert harness.batcher.accepted_draft_tokens
    harness.assert_nothing_leaked()


def test_masks_of_one_owner_do_not_wait_for_those_of_another() -> None:
    worker, closed, opened = MaskWorker(), threading.Event(), threading.Event()
    opened.set()
    held = [HeldConstraint(closed) for _ in range(8)]
    quick = [HeldConstraint(opened) for _ in range(8)]
    worker.begin([("a", each) for each in held])
    worker.begin([("b", each) for each in quick])
    worker.wait(TEST_TIMEOUT_SECONDS)
    assert [(each.computed, each.is_ready) for each in quick] == [(1, True)] * 8
    assert not any(each.is_ready for each in held)
    worker.begin([("a", each) for each in held])
    closed.set()
    worker.wait(TEST_TIMEOUT_SECONDS)
    assert [(each.computed, each.is_ready) for each in held] == [(1, True)] * 8
