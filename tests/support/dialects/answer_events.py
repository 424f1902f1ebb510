"""Random valid answers as an engine's events."""

from typing import Any

from hypothesis import strategies as st

from dragoman.core.events import Delta, Event, Finished, ReasoningDelta, TokenLogprobs, ToolCallDelta, TopLogprob, Usage
from tests.support.dialects.cases import DialectCase

_LOGPROBS = st.floats(-20, 0) | st.just(-9999.0)
_TOKENS = st.binary(min_size=1, max_size=3) | st.sampled_from([b" a", "é".encode()[:1], "é".encode()[1:]])
_TOKEN_LOGPROBS = st.builds(
    lambda token, logprob, top: TokenLogprobs(1, token, logprob, top),
    _TOKENS,
    _LOGPROBS,
    st.lists(st.builds(TopLogprob, st.just(1), _TOKENS, _LOGPROBS), max_size=2).map(
        lambda top: sorted(top, key=lambda likely: -likely.logprob)
    ),
)


@st.composite
def _choice(draw: st.DrawFn, index: int, case: DialectCase) -> list[Event]:
    token_logprobs = st.lists(_TOKEN_LOGPROBS, max_size=2) if case.renders_logprobs else st.just([])
    reasoning: list[Event] = [
        ReasoningDelta(index, text, [7]) for text in draw(st.lists(st.text(max_size=3), max_size=3))
    ]
    texts: list[Event] = [
        Delta(index, text, [7], logprobs)
        for text, logprobs in draw(st.lists(st.tuples(st.text(max_size=3), token_logprobs), max_size=4))
    ]
    calls: list[Event] = []
    for number in range(draw(st.integers(0, 2)) if case.renders_tool_calls else 0):
        first, *rest = draw(st.lists(st.sampled_from(["", '{"a":', "1}", "é"]), min_size=1, max_size=4))
        calls.append(
            ToolCallDelta(
                index=index,
                call_index=number,
                arguments=first,
                token_ids=[7],
                id=f"call_{index}{number}",
                name=f"tool_{number}",
            )
        )
        calls += [ToolCallDelta(index=index, call_index=number, arguments=piece, token_ids=[7]) for piece in rest]
    ends: list[Any] = ["tool_calls" if calls else "stop", "length", "content_filter"]
    return [*reasoning, *texts, *calls, Finished(index, draw(st.sampled_from(ends)))]


@st.composite
def answer_events(draw: st.DrawFn, case: DialectCase) -> list[Event]:
    """Draw the events of an answer for this route: choices interleaved, the usage at the end."""
    choices = [draw(_choice(index, case)) for index in range(draw(st.integers(1, case.max_choices)))]
    order = draw(st.permutations([number for number, events in enumerate(choices) for _ in events]))
    queues = [iter(events) for events in choices]
    counts = draw(st.tuples(st.integers(1, 99), st.integers(1, 99), st.integers(0, 9), st.integers(0, 9)))
    return [*(next(queues[number]) for number in order), Usage(*counts)]
