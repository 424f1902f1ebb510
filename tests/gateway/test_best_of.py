from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.events import Delta, Event, Finished, TokenLogprobs, ToolCallDelta, Usage
from dragoman.core.request import GenerationRequest, TextPrompt
from dragoman.gateway.best_of import Contest, as_candidates

REQUEST = GenerationRequest("m", TextPrompt("Once"), n=2, best_of=5)
PROMPT = Delta(0, "Once", [], [TokenLogprobs(0, b"Once", -90.0, [])])
"""What echo puts before the answer."""


def candidate(index: int, *logprobs: float) -> list[Event]:
    """Says its own number once for every token."""
    told = [Delta(index, str(index), [7], [TokenLogprobs(7, b"x", logprob, [])]) for logprob in logprobs]
    return [*told, Finished(index, "stop")]


def result(contest: Contest, events: list[Event]) -> list[Event]:
    return [told for event in events for told in contest.feed(event)]


def texts(events: list[Event]) -> dict[int, str]:
    said: dict[int, str] = {}
    for event in events:
        if isinstance(event, Delta):
            said[event.index] = said.get(event.index, "") + event.text
    return said


def test_candidates_are_choices_with_log_probabilities() -> None:
    run = as_candidates(REQUEST)
    assert (run.n, run.best_of, run.logprobs) == (5, None, 0)
    assert as_candidates(GenerationRequest("m", TextPrompt(""), best_of=3, logprobs=4)).logprobs == 4


def test_there_is_no_contest_without_more_candidates_than_choices() -> None:
    assert Contest.over([REQUEST]) is not None
    for best_of in (None, 2):
        assert Contest.over([GenerationRequest("m", TextPrompt("Once"), n=2, best_of=best_of)]) is None


def test_the_highest_means_are_told_best_first_whatever_their_length() -> None:
    usage = Usage(4, 9, 0)
    events = [*candidate(0, -1, -3), *candidate(1, -1.5), *candidate(2, -1, -1, -1, -1), *candidate(3, -4), usage]
    told = result(Contest(2, 4, tells_logprobs=False), events)
    assert texts(told) == {0: "2222", 1: "1"}
    assert told[-1] == usage
    assert not any(event.logprobs for event in told if isinstance(event, Delta))


def test_of_equals_the_first_is_told() -> None:
    events = [*candidate(1, -2), *candidate(0, -2), *candidate(2, -2), Usage(1, 3, 0)]
    assert texts(result(Contest(2, 3, tells_logprobs=False), events)) == {0: "0", 1: "1"}


def test_log_probabilities_that_were_asked_for_are_told() -> None:
    events = [*candidate(0, -2), *candidate(1, -1), Usage(1, 2, 0)]
    [delta, *_] = result(Contest(1, 2, tells_logprobs=True), events)
    assert delta == Delta(0, "1", [7], [TokenLogprobs(7, b"x", -1, [])])


def test_a_prompt_that_is_repeated_counts_for_nobody() -> None:
    events = [PROMPT, Delta(1, "Once", [], PROMPT.logprobs), *candidate(0, -1, -1), *candidate(1, -2), Usage(1, 3, 0)]
    assert texts(result(Contest(1, 2, tells_logprobs=False), events)) == {0: "Once00"}


def test_who_says_nothing_comes_last() -> None:
    call = ToolCallDelta(1, 0, "{}", [7], "call_0", "now")
    events = [Finished(0, "stop"), call, Finished(1, "tool_calls"), *candidate(2, -9999.0), Usage(1, 3, 0)]
    told = result(Contest(3, 3, tells_logprobs=False), events)
    assert [event.index for event in told if isinstance(event, Finished)] == [0, 1, 2]
    assert texts(told) == {0: "2"}


def test_nothing_is_told_before_all_are_complete() -> None:
    contest = Contest(1, 2, tells_logprobs=False)
    assert result(contest, [*candidate(0, -1), *candidate(1, -2)]) == []


@given(st.lists(st.floats(-9, 0), min_size=6, max_size=6), st.permutations(range(6)))
def test_every_prompt_has_a_contest_of_its_own_however_they_interleave(means: list[float], order: list[int]) -> None:
    events = [event for index in order for event in candidate(index, means[index])]
    told = texts(result(Contest(2, 3, tells_logprobs=False), [*events, Usage(1, 6, 0)]))
    for number, candidates in enumerate((range(3), range(3, 6))):
        best = sorted(candidates, key=lambda index: (-means[index], index))
        assert [told[2 * number], told[2 * number + 1]] == [str(index) for index in best[:2]]
