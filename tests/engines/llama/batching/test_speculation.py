"""Drafts: where they come from, how many pay, and that no answer depends on them."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.request import SamplingParams
from dragoman.engines.llama.batching.speculation import (
    Drafter,
    DraftPlanner,
    PromptNgrams,
    StepCosts,
)
from tests.support.batching import BatcherHarness, PublishedAnswer
from tests.support.simulated_backend import ALL_TOKENS, VOCABULARY_SIZE

MAX_MATCH = 16
MAX_INSERTED = 5
MAX_SKIPPED = 12

few_tokens = st.lists(st.integers(0, 3), min_size=1, max_size=40)


class SearchingDrafter:
    """A drafter that has no index and looks through all of its tokens."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens)
        self.left: tuple[int, int] | None = None
        """What was expected, and the length of the text, where it last went on differently."""
        self.source, self.matched = self._search()

    def append(self, token: int) -> None:
        if self.source is not None and self.tokens[self.source] == token:
            self.tokens.append(token)
            self.source, self.matched = self.source + 1, min(max(self.matched, 2) + 1, MAX_MATCH)
            return
        if self.source is not None and (self.matched >= 3 or not self._may_return(1)):
            self.left = self.source, len(self.tokens)
        self.tokens.append(token)
        self.source, self.matched = self._search()

    def draft(self, count: int) -> list[int]:
        if self.source is None:
            return []
        tokens = list(self.tokens)
        for number in range(count):
            tokens.append(tokens[self.source + number])
        return tokens[len(self.tokens) :]

    def _search(self) -> tuple[int | None, int]:
        for size in (3, 2):
            for end in range(len(self.tokens) - 1, size - 1, -1):
                if self.tokens[end - size : end] == self.tokens[-size:]:
                    matched = size
                    while matched < min(end, MAX_MATCH) and self.tokens[end - matched - 1] == self.tokens[-matched - 1]:
                        matched += 1
                    return end, matched
            if size == 3 and self.left is not None and self._may_return(0):
                followed = self.tokens[:-1][self.left[0] : self.left[0] + MAX_SKIPPED + 1]
                if self.tokens[-1] in followed:
                    return self.left[0] + followed.index(self.tokens[-1]) + 1, 1
        return None, 0

    def _may_return(self, more: int) -> bool:
        return self.left is not None and len(self.tokens) + more - self.left[1] <= MAX_INSERTED + 1


def drafter_after(tokens: Sequence[int], prompt: int | None = None) -> Drafter:
    """Return a drafter after these tokens, of which `prompt` are the prompt."""
    ngrams = PromptNgrams(np.array(tokens[:prompt], dtype=np.int32))
    return Drafter(ngrams, tokens[prompt:] if prompt is not None else ())


@given(few_tokens, st.lists(st.integers(0, 3), max_size=40), st.integers(1, 20))
def test_a_draft_is_what_a_search_through_all_tokens_finds(prompt: list[int], answer: list[int], count: int) -> None:
    drafter, searching = drafter_after(prompt), SearchingDrafter(prompt)
    for token in (*answer, None):
        assert drafter.draft(count) == searching.draft(count)
        assert drafter.matched == searching.matched
        if token is not None:
            drafter.append(token)
            searching.append(token)


@given(few_tokens, st.lists(st.integers(0, 3), max_size=20))
def test_a_drafter_made_late_drafts_what_one_made_at_the_beginning_does(prompt: list[int], answer: list[int]) -> None:
    late = drafter_after([*prompt, *answer], len(prompt))
    early = drafter_after(prompt)
    for token in answer:
        early.append(token)
    assert late.draft(10) == early.draft(10)


@pytest.mark.parametrize("difference", [[90], [90, 91, 92], []])
def test_a_copy_is_followed_again_behind_a_difference(difference: list[int]) -> None:
    text = list(range(40))
    copied = [*text, *text[:10], *difference, 15]
    assert drafter_after(copied, 40).draft(4) == [16, 17, 18, 19]


def test_what_comes_long_after_a_difference_is_not_taken_for_the_copy() -> None:
    text = list(range(40))
    assert drafter_after([*text, *text[:10], *range(90, 96), 15], 40).draft(4) == []
    assert drafter_after([*text, *text[:10], 90, 24], 40).draft(4) == []


def test_a_text_that_goes_on_like_the_prompt_becomes_more_probable() -> None:
    text = list(range(40))
    drafter = drafter_after([*text, 0, 1])
    before = drafter.acceptance(1)
    for token in text[2:20]:
        drafter.observe(token)
        drafter.append(token)
    assert drafter.acceptance(1) > before


def test_a_text_that_does_not_go_on_like_the_prompt_becomes_less_probable() -> None:
    drafter = drafter_after([1, 2, 3, 1, 2])
    before = drafter.acceptance(1)
    for token in (*range(10, 16), 1, 2, *range(20, 26), 1, 2, *range(30, 36), 1, 2):
        drafter.observe(token)
        drafter.append(token)
    assert drafter.acceptance(1) < before


def costs_of(fixed: float, token: float, batches: Iterable[int]) -> StepCosts:
    """Return what was learned from steps with these numbers of tokens."""
    costs = StepCosts()
    for tokens in batches:
        costs.observe(tokens, fixed + token * tokens)
    return costs


@pytest.mark.parametrize("ratio", [0.05, 0.3, 2.0])
def test_the_cost_of_a_token_is_learned_from_steps_of_different_sizes(ratio: float) -> None:
    assert costs_of(10.0, 10.0 * ratio, [1, 8, 4, 2, 16] * 10).token_cost == pytest.approx(ratio, rel=0.1)


def test_a_learned_cost_lasts_while_steps_are_alike_and_is_doubted_in_the_end() -> None:
    steps = [1, 8, 4, 2, 16] * 10
    learned = costs_of(10.0, 20.0, steps).token_cost
    assert costs_of(10.0, 20.0, [*steps, *[1] * 20]).token_cost == pytest.approx(learned, rel=0.15)
    assert costs_of(10.0, 20.0, [*steps, *[1] * 3000]).token_cost < 0.5


def test_a_step_that_was_interrupted_hardly_changes_the_cost() -> None:
    costs = costs_of(10.0, 3.0, [1, 8, 4, 2, 16] * 10)
    before = costs.token_cost
    costs.observe(8, 10_000.0)
    assert costs.token_cost == pytest.approx(before, rel=0.7)


class Draftable(NamedTuple):
    """A sequence for the planner alone."""

    drafter: Drafter
    max_draft_tokens: int
    length: int = 100

    def draft(self, count: int) -> list[int]:
        return self.drafter.draft(count)


def copying() -> Draftable:
    """A sequence that is certain to go on like its prompt."""
    text = list(range(100))
    drafter = drafter_after([*text, *text[:30]], 100)
    for token in text[30:60]:
        drafter.observe(token)
        drafter.append(token)
    return Draftable(drafter, 50)


def observe_steps(planner: DraftPlanner, length: int, costs: tuple[float, float], batches: Iterable[int]) -> None:
    """Let a planner observe steps of a fixed cost and one for each token, behind a text of this length."""
    fixed, token = costs
    for tokens in batches:
        planner.draft([copying()._replace(length=length)], 1, 1)
        planner.observe(tokens, fixed + token * tokens)


def drafted(token_cost: float, sequences: list[Draftable], room: int = 60) -> list[int]:
    planner = DraftPlanner(15)
    observe_steps(planner, sequences[0].length, (1.0, token_cost), [1, 8, 4, 2, 16] * 10)
    drafts = planner.draft(sequences, len(sequences), room)
    return [len(drafts.get(sequence, ())) for sequence in sequences]


@pytest.mark.parametrize("lengths", [(1_000, 17_000), (17_000, 1_000)])
def test_steps_behind_texts_of_another_length_do_not_change_the_drafts(lengths: tuple[int, int]) -> None:
    planner = DraftPlanner(15)
    known, other = lengths
    costs = {1_000: (1.0, 0.3), 17_000: (14.0, 4.0)}
    observe_steps(planner, known, costs[known], [1, 8, 4, 2, 16] * 10)
    sequence = copying()._replace(length=known)
    before = planner.draft([sequence], 1, 60)
    observe_steps(planner, other, costs[other], [1] * 60)
    assert before
    assert planner.draft([sequence], 1, 60) == before


def test_the_cost_of_a_token_behind_a_length_not_met_before_is_that_behind_the_nearest() -> None:
    planner = DraftPlanner(15)
    observe_steps(planner, 1_000, (1.0, 50.0), [1, 8, 4, 2, 16] * 10)
    observe_steps(planner, 17_000, (1.0, 0.1), [1, 8, 4, 2, 16] * 10)
    assert not planner.draft([copying()._replace(length=1_600)], 1, 60)
    assert planner.draft([copying()._replace(length=12_000)], 1, 60)


def test_steps_without_room_for_drafts_are_not_observed() -> None:
    planner = DraftPlanner(15)
    sequence = copying()
    before = planner.draft([sequence], 1, 60)
    for tokens in [1, 8, 4, 2, 16] * 10:
        assert not planner.draft([sequence], tokens, 0)
        planner.observe(tokens, 1.0 + 50.0 * tokens)
    assert planner.draft([sequence], 1, 60) == before


def test_drafts_are_long_where_tokens_are_cheap_and_none_where_they_are_dear() -> None:
    assert drafted(0.1, [copying()]) == [15]
    assert drafted(50.0, [copying()]) == [0]


def test_drafts_end_where_another_token_no_longer_pays_in_a_wide_batch() -> None:
    assert drafted(0.3, [copying() for _ in range(30)]) == [0] * 30
    assert min(drafted(0.3, [copying() for _ in range(3)])) > 0


def test_a_sequence_without_repeats_is_not_delayed_much_for_one_that_copies() -> None:
    plain = [Draftable(drafter_after([*range(number, 40)]), 50) for number in range(6)]
    beside, alone = drafted(0.3, [copying(), *plain]), drafted(0.3, [copying()])
    assert beside[1:] == [0] * 6
    assert beside[0] < alone[0]


def test_there_are_never_more_drafted_tokens_than_room_or_the_limits_allow() -> None:
    assert sum(drafted(0.01, [copying(), copying()], room=7)) == 7
    assert drafted(0.01, [copying()._replace(max_draft_tokens=3)]) == [3]
    assert drafted(0.01, [copying()._replace(max_draft_tokens=0)], room=0) == [0]


def repetitive(context: Iterable[int]) -> int:
    """A model that mostly repeats what it said five tokens ago, and depends on every token before."""
    tokens = list(context)
    digest = hashlib.blake2b(np.array(tokens, dtype=np.int32).tobytes(), digest_size=4).digest()
    number = int.from_bytes(digest, "little")
    if number % 8 and len(tokens) >= 5:
        return tokens[-5] % VOCABULARY_SIZE
    return number // 8 % 5


class Requested(NamedTuple):
    """One request of a scenario, and the step before which it comes."""

    prompt: list[int]
    limit: int
    sampling: SamplingParams
    seed: int
    n: int
    owner: str
    adapter: int
    begins: int
    cancelled_after: int | None


controls = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.0, 0.2]),
    stop=st.sampled_from([(), ("BCD", "EA")]),
    stop_token_ids=st.sampled_from([(), (4,)]),
    min_tokens=st.sampled_from([0, 6]),
    ignore_eos=st.booleans(),
    repetition_penalty=st.sampled_from([1.0, 1.2]),
    frequency_penalty=st.sampled_from([0.0, 0.1]),
)
requested = st.builds(
    Requested,
    prompt=st.lists(st.integers(1, 3), min_size=1, max_size=30),
    limit=st.integers(1, 40),
    sampling=controls,
    seed=st.integers(0, 3),
    n=st.sampled_from([1, 1, 2]),
    owner=st.sampled_from(["a", "b"]),
    adapter=st.sampled_from([0, 0, 1]),
    begins=st.integers(0, 8),
    cancelled_after=st.sampled_from([None, None, None, 3]),
)


REPEATING = Requested(
    prompt=[1, 2, 3, 1, 2],
    limit=60,
    sampling=SamplingParams(temperature=0.0, ignore_eos=True),
    seed=1,
    n=1,
    owner="a",
    adapter=0,
    begins=0,
    cancelled_after=None,
)


class Machine(NamedTuple):
    """The sizes of an engine."""

    cells: int
    max_sequences: int
    reuses_cells: bool
    separate_lora_backend: bool
    divisible_tokens: int


machines = st.builds(
    Machine,
    cells=st.sampled_from([90, 200, 1000]),
    max_sequences=st.integers(1, 4),
    reuses_cells=st.booleans(),
    separate_lora_backend=st.booleans(),
    divisible_tokens=st.sampled_from([ALL_TOKENS, ALL_TOKENS, 6, 0]),
).filter(lambda machine: not machine.separate_lora_backend or machine[2:] == (True, True, ALL_TOKENS))


def run(machine: Machine, requests: list[Requested], max_draft_tokens: int) -> BatcherHarness:
    """Run the requests, with the accounting of the cells checked after every step."""
    harness = BatcherHarness(model=repetitive, max_draft_tokens=max_draft_tokens, **machine._asdict())
    adapters = [0, *harness.load_adapters(1)]
    for step in range(12):
        for number, one in enumerate(requests):
            if one.begins == step:
                harness.add(
                    one.prompt,
                    one.limit,
                    n=one.n,
                    adapter=adapters[one.adapter],
                    owner=one.owner,
                    sampling=one.sampling,
                    seed=one.seed,
                    number=number,
                )
            if one.cancelled_after is not None and one.begins + one.cancelled_after == step:
                harness.batcher.cancel((0, number))
        harness.step()
    harness.run()
    harness.assert_nothing_leaked()
    return harness


@settings(max_examples=60, deadline=None)
@given(machines, st.lists(requested, min_size=1, max_size=5))
def test_answers_are_the_same_with_and_without_drafts(machine: Machine, requests: list[Requested]) -> None:
    """Whatever else happens: other requests, scarce cells, cancelled ones, adapters, windows, states, controls."""
    with_drafts, without = (run(machine, requests, most).answers for most in (15, 0))
    for number, one in enumerate(requests):
        if one.cancelled_after is None:
            assert _without_cached(with_drafts[0, number]) == _without_cached(without[0, number])


def _without_cached(answer: PublishedAnswer) -> tuple[object, ...]:
    """Return an answer without what it shared, which depends on the steps in which others ended."""
    assert answer.usage is not None
    return answer.tokens, answer.finished, answer.usage.completion_tokens


def test_drafts_save_steps_and_rejected_ones_leave_no_cell() -> None:
    machine = Machine(1000, 4, True, False, ALL_TOKENS)
    with_drafts, without = run(machine, [REPEATING], 15), run(machine, [REPEATING], 0)
    batcher = with_drafts.batcher
    assert 0 < batcher.accepted_draft_tokens < batcher.drafted_tokens
    assert len(with_drafts.backend.batches) < len(without.backend.batches)
    assert without.batcher.drafted_tokens == 0


def test_a_recurrent_state_gets_no_drafts() -> None:
    machine = Machine(1000, 4, True, False, 0)
    assert run(machine, [REPEATING], 15).batcher.drafted_tokens == 0
