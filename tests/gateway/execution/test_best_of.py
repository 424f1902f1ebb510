from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.events import Delta, Event, Finished, TokenLogprobs, ToolCallDelta, Usage
from dragoman.core.request import GenerationRequest, TextPrompt
from dragoman.gateway.execution.best_of import BestOfSelector, candidates_request
from dragoman.gateway.execution.request_execution import ranks_candidates

REQUEST = GenerationRequest(model="m", prompt=TextPrompt("Once"), n=2, best_of=5)
PROMPT = Delta(0, "Once", [], [TokenLogprobs(0, b"Once", -90.0, [])])
"""The delta that `echo` puts before the answer."""


def candidate(index: int, *logprobs: float) -> list[Event]:
    """Build a candidate whose text is its own number, once for every token."""
    returned = [Delta(index, str(index), [7], [TokenLogprobs(7, b"x", logprob, [])]) for logprob in logprobs]
    return [*returned, Finished(index, "stop")]


def select(selector: BestOfSelector, events: list[Event]) -> list[Event]:
    return [returned for event in events for returned in selector.feed(event)]


def texts(events: list[Event]) -> dict[int, str]:
    collected: dict[int, str] = {}
    for event in events:
        if isinstance(event, Delta):
            collected[event.index] = collected.get(event.index, "") + event.text
    return collected


def test_candidates_are_choices_with_log_probabilities() -> None:
    run = candidates_request(REQUEST)
    assert (run.n, run.best_of, run.logprobs) == (5, None, 0)
    assert candidates_request(GenerationRequest(model="m", prompt=TextPrompt(""), best_of=3, logprobs=4)).logprobs == 4


def test_no_selector_is_needed_without_more_candidates_than_choices() -> None:
    assert ranks_candidates(REQUEST)
    for best_of in (None, 2):
        assert not ranks_candidates(GenerationRequest(model="m", prompt=TextPrompt("Once"), n=2, best_of=best_of))


def test_the_highest_means_are_returned_best_first_regardless_of_length() -> None:
    usage = Usage(4, 9, 0)
    events = [*candidate(0, -1, -3), *candidate(1, -1.5), *candidate(2, -1, -1, -1, -1), *candidate(3, -4), usage]
    returned = select(BestOfSelector(2, 4, include_logprobs=False), events)
    assert texts(returned) == {0: "2222", 1: "1"}
    assert returned[-1] == usage
    assert not any(event.logprobs for event in returned if isinstance(event, Delta))


def test_ties_go_to_the_first_candidate() -> None:
    events = [*candidate(1, -2), *candidate(0, -2), *candidate(2, -2), Usage(1, 3, 0)]
    assert texts(select(BestOfSelector(2, 3, include_logprobs=False), events)) == {0: "0", 1: "1"}


def test_requested_log_probabilities_are_returned() -> None:
    events = [*candidate(0, -2), *candidate(1, -1), Usage(1, 2, 0)]
    [delta, *_] = select(BestOfSelector(1, 2, include_logprobs=True), events)
    assert delta == Delta(0, "1", [7], [TokenLogprobs(7, b"x", -1, [])])


def test_an_echoed_prompt_does_not_affect_the_ranking() -> None:
    events = [PROMPT, Delta(1, "Once", [], PROMPT.logprobs), *candidate(0, -1, -1), *candidate(1, -2), Usage(1, 3, 0)]
    assert texts(select(BestOfSelector(1, 2, include_logprobs=False), events)) == {0: "Once00"}


def test_candidates_without_text_rank_last() -> None:
    call = ToolCallDelta(index=1, call_index=0, arguments="{}", token_ids=[7], id="call_0", name="now")
    events = [Finished(0, "stop"), call, Finished(1, "tool_calls"), *candidate(2, -9999.0), Usage(1, 3, 0)]
    returned = select(BestOfSelector(3, 3, include_logprobs=False), events)
    assert [event.index for event in returned if isinstance(event, Finished)] == [0, 1, 2]
    assert texts(returned) == {0: "2"}


def test_nothing_is_returned_before_all_candidates_are_complete() -> None:
    selector = BestOfSelector(1, 2, include_logprobs=False)
    assert select(selector, [*candidate(0, -1), *candidate(1, -2)]) == []


@given(st.lists(st.floats(-9, 0), min_size=6, max_size=6), st.permutations(range(6)))
def test_candidates_of_interleaved_prompts_are_ranked_per_prompt(means: list[float], order: list[int]) -> None:
    events = [event for index in order for event in candidate(index, means[index])]
    returned = texts(select(BestOfSelector(2, 3, include_logprobs=False), [*events, Usage(1, 6, 0)]))
    for number, candidates in enumerate((range(3), range(3, 6))):
        best = sorted(candidates, key=lambda index: (-means[index], index))
        assert [returned[2 * number], returned[2 * number + 1]] == [str(index) for index in best[:2]]
