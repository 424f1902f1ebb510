"""What a request may want of its prompt: its tokens, their log-probabilities, and no answer at all."""

import math

import numpy as np
import pytest

from dragoman.core.events import ChoiceEvent, Delta, Event, Finished, PromptTokens, Started, TokenLogprobs, Usage
from dragoman.core.request import SamplingParams
from dragoman.engines.llama.batching.sequence import EngineRequest
from tests.support.batching import BatcherHarness, run_until_idle
from tests.support.simulated_backend import VOCABULARY_SIZE

PROMPT = [7, 8, 9]
GREEDY = SamplingParams(temperature=0.0)

LIKELY = 1 - math.log(math.e + VOCABULARY_SIZE - 1)
"""The log-probability of the token that the simulated model prefers."""


def answer(max_tokens: int = 2, *, n: int = 1, echo: str = "", **wanted: int) -> list[Event]:
    """Answer one request with the simulated model."""
    harness = BatcherHarness()
    prompt = np.array(PROMPT, dtype=np.int32)
    request = EngineRequest(
        (0, 0),
        prompt,
        GREEDY,
        max_tokens,
        echo=echo,
        logprobs=wanted.get("logprobs"),
        prompt_logprobs=wanted.get("prompt_logprobs"),
        reports_prompt=bool(wanted.get("reports_prompt")),
    )
    outputs = harness.batcher.add(request, n, seed=1) + run_until_idle(harness.batcher)
    events = [output.event for output in outputs]
    assert all(isinstance(event, Event) for event in events)
    harness.assert_nothing_leaked()
    return [event for event in events if isinstance(event, Event)]


@pytest.mark.parametrize("max_tokens", [0, 2])
def test_a_request_begins_with_the_count_of_its_prompt_tokens_whatever_it_reports(max_tokens: int) -> None:
    for events in (answer(max_tokens, n=2, echo="abc"), answer(max_tokens, n=2, reports_prompt=1)):
        assert [event for event in events if isinstance(event, Started)] == [events[0]] == [Started(3, 0)]


def test_the_tokens_of_the_prompt_come_before_every_choice() -> None:
    events = answer(n=2, reports_prompt=1)
    for index in (0, 1):
        own = [event for event in events if isinstance(event, ChoiceEvent) and event.index == index]
        assert own[0] == PromptTokens(index, PROMPT)
        assert not any(isinstance(event, PromptTokens) for event in own[1:])


def test_the_log_probabilities_of_the_prompt_have_ranks() -> None:
    [reported] = [event for event in answer(prompt_logprobs=1) if isinstance(event, PromptTokens)]
    first, *rest = reported.logprobs
    assert (first.token_id, first.logprob, first.rank, first.top) == (7, None, None, [])
    assert [entry.token_id for entry in rest] == PROMPT[1:]
    for entry in rest:
        assert [likely.logprob for likely in entry.top] == [pytest.approx(LIKELY)]
        assert entry.rank == (1 if entry.token_id == entry.top[0].token_id else VOCABULARY_SIZE)


def test_a_prompt_is_echoed_with_as_many_likely_tokens_as_its_answer_whatever_is_reported_of_it() -> None:
    def tops(entries: list[TokenLogprobs]) -> list[int]:
        return [len(entry.top) for entry in entries]

    events = answer(echo="abc", logprobs=1, prompt_logprobs=3)
    [reported] = [event for event in events if isinstance(event, PromptTokens)]
    echoed = next(event for event in events if isinstance(event, Delta))
    assert (tops(reported.logprobs), tops(echoed.logprobs)) == ([0, 3, 3], [0, 1, 1])
    assert (echoed.text, echoed.token_ids) == ("abc", [])


@pytest.mark.parametrize("n", [1, 2])
def test_a_request_without_an_answer_ends_after_its_prompt(n: int) -> None:
    events = answer(0, n=n, echo="abc", logprobs=1)
    assert [event for event in events if isinstance(event, Finished)] == [Finished(i, "length") for i in range(n)]
    deltas = [event for event in events if isinstance(event, Delta)]
    assert [(delta.text, delta.token_ids, len(delta.logprobs)) for delta in deltas] == [("abc", [], 3)] * n
    assert events[-1] == Usage(3, 0, 0)


def test_a_step_reports_a_bounded_number_of_log_probabilities_of_prompts_and_leaves_its_rest_to_others() -> None:
    harness = BatcherHarness(cells=2048, max_sequences=8, max_batched_tokens=512)
    prompt = np.arange(200, dtype=np.int32) % (VOCABULARY_SIZE - 1) + 1
    harness.batcher.add(EngineRequest((0, 0), prompt, GREEDY, 1, prompt_logprobs=0), 4, seed=1)
    other = harness.add([5] * 100, limit=1, number=1)
    outputs = harness.batcher.step()
    assert [output.key for output in outputs if isinstance(output.event, Usage)] == [other]
    outputs += run_until_idle(harness.batcher)
    assert [sum(batch) for batch in harness.backend.batches] == [100 + 64, *[64] * 11, 4 * 200 - 12 * 64]
    reported = [output.event for output in outputs if isinstance(output.event, PromptTokens)]
    assert len(reported) == 4
    assert all(len(event.logprobs) == 200 for event in reported)
