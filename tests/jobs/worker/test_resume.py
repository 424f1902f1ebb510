"""Resuming an answer: replayed events are separated from new ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import EngineFailed
from dragoman.core.events import (
    ChoiceEvent,
    Delta,
    Event,
    Finished,
    PromptTokens,
    ReasoningDelta,
    Started,
    ToolCallDelta,
    Usage,
)
from dragoman.core.request import GenerationRequest, TextPrompt
from dragoman.jobs.worker.resume import ReplayFilter, can_resume, resumed_requests

USAGE = Usage(1, 1, 0)


@st.composite
def choices(draw: st.DrawFn, index: int) -> list[Event]:
    """Generate the events of a choice: each token in an event of its own, and events without tokens anywhere."""
    events: list[Event] = []
    for number in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from("dtr"))
        tokens = draw(st.sampled_from([[], [number]]))
        match kind:
            case "d":
                events.append(Delta(index, f"{number}", tokens))
            case "r":
                events.append(ReasoningDelta(index, f"{number}", tokens))
            case _:
                events.append(ToolCallDelta(index=index, call_index=0, arguments=f"{number}", token_ids=tokens))
    return [*events, Finished(index, "stop")]


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """Generate two interleaved choices and the usage."""
    both = [draw(choices(index)) for index in range(2)]
    order = draw(st.permutations([index for index in range(2) for _ in both[index]]))
    queues = [iter(events) for events in both]
    return [*(next(queues[index]) for index in order), USAGE]


def split(events: list[Event], index: int) -> list[Event]:
    return [
        event
        for event in events
        if isinstance(event, Usage) or (isinstance(event, ChoiceEvent) and event.index == index)
    ]


def test_a_resumed_answer_starts_once() -> None:
    assert ReplayFilter([Delta(0, "a", [1])]).is_stored(Started(1, 0))
    assert not ReplayFilter().is_stored(Started(1, 0))


@given(answers(), st.data())
def test_stored_events_and_filtered_replay_make_up_the_answer(answer: list[Event], data: st.DataObject) -> None:
    """The replay may interleave the choices in another way."""
    cut = data.draw(st.integers(0, len(answer) - 1))
    order = data.draw(st.permutations([0] * (len(split(answer, 0)) - 1) + [1] * (len(split(answer, 1)) - 1)))
    queues = [iter(split(answer, index)) for index in range(2)]
    replayed = [*(next(queues[index]) for index in order), USAGE]
    stored = ReplayFilter(answer[:cut])
    whole = [*answer[:cut], *(event for event in replayed if not stored.is_stored(event))]
    assert [split(whole, index) for index in range(2)] == [split(answer, index) for index in range(2)]


def test_a_replay_may_split_tokens_that_came_together() -> None:
    stored = ReplayFilter([Delta(0, "ab", [1, 2]), Delta(0, "", [])])
    replayed: list[Event] = [Delta(0, "a", [1]), Delta(0, "b", [2]), Delta(0, "", []), Delta(0, "c", [3])]
    assert [stored.is_stored(event) for event in replayed] == [True, True, True, False]


def test_an_engine_that_replays_differently_fails() -> None:
    with pytest.raises(EngineFailed, match="other pieces"):
        ReplayFilter([Delta(0, "a", [1])]).is_stored(Delta(0, "ab", [1, 2]))
    with pytest.raises(EngineFailed, match="send again"):
        ReplayFilter([Delta(0, "a", [1])]).is_stored(USAGE)


def test_resumed_requests_carry_the_tokens_of_all_choices() -> None:
    requests = [GenerationRequest(model="m", prompt=TextPrompt(text), n=2) for text in "ab"]
    stored: list[Event] = [Delta(3, "x", [7]), Delta(0, "y", [1]), ReasoningDelta(0, "z", [2]), Finished(0, "stop")]
    assert [request.resume_token_ids for request in resumed_requests(requests, stored)] == [((1, 2), ()), ((), (7,))]
    assert [request.resume_token_ids for request in resumed_requests(requests, [Delta(0, "prompt", [])])] == [(), ()]


def test_answers_with_logprobs_or_best_of_are_not_resumed() -> None:
    request = GenerationRequest(model="m", prompt=TextPrompt("a"))
    assert can_resume([request])
    assert not can_resume([request, GenerationRequest(model="m", prompt=TextPrompt("a"), logprobs=0)])
    assert not can_resume([GenerationRequest(model="m", prompt=TextPrompt("a"), best_of=2)])
    assert not can_resume([GenerationRequest(model="m", prompt=TextPrompt("a"), prompt_logprobs=0)])


def test_the_tokens_of_the_prompt_are_stored_once_and_are_not_resumed_after() -> None:
    stored: list[Event] = [PromptTokens(0, [7, 8]), Delta(0, "a", [1])]
    [resumed] = resumed_requests([GenerationRequest(model="m", prompt=TextPrompt("ab"), reports_prompt=True)], stored)
    assert resumed.resume_token_ids == ((1,),)
    replay = ReplayFilter(stored)
    assert [replay.is_stored(event) for event in [*stored, Delta(0, "b", [2])]] == [True, True, False]
    only_prompt = ReplayFilter(stored[:1])
    assert [only_prompt.is_stored(event) for event in stored] == [True, False]
