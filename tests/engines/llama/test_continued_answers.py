"""An answer that goes on after the tokens of an earlier attempt is told as if it had been generated in one go.

The model here only recites, as likely as the temperature lets it, so that an answer may be anything.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest, EngineFailed
from dragoman.core.events import AnyDelta, Delta, Event, Finished, ReasoningDelta, ToolCallDelta, Usage
from dragoman.core.request import SamplingParams
from dragoman.engines.constraint import GrammarCompiler, GrammarConstraint
from dragoman.engines.echo.engine import END
from dragoman.engines.llama.answer_reading import PLAIN, AnswerReading
from dragoman.engines.llama.batcher import Batcher, Outcome
from dragoman.engines.llama.sequence import Job
from dragoman.prompt.reading import OutputParserSpec, build_parser
from dragoman.prompt.thinking import CLOSING, OPENING, ReasoningSpec
from tests.support.batching import drained
from tests.support.byte_vocabulary import Bytes
from tests.support.simulated_backend import SimulatedBackend

PROMPT = np.array([*b"Say it: "], dtype=np.int32)
MOST_STEPS = 1000
LIMIT = 120
CALL = '<tool_call>\n{"name": "now", "arguments": {"zone": "STOP"}}\n</tool_call>'
GRAMMAR = 'start: "Hello, " ("world" | "you") "! Bye, " /[a-z]{1,5}/ "."'

COMPILER = GrammarCompiler(Bytes())


class Asked(NamedTuple):
    """A request, as far as it does not vary between attempts."""

    said: str
    sampling: SamplingParams = SamplingParams(temperature=0.0)
    reading: AnswerReading = PLAIN
    constraint: GrammarConstraint | None = None
    n: int = 1
    echo: str = ""


def answer(asked: Asked, begun: tuple[tuple[int, ...], ...] = ()) -> list[Event]:
    """What is published. Raises BadRequest."""
    text = asked.said.encode()

    def recite(context: Iterable[int]) -> int:
        place = len(list(context)) - len(PROMPT)
        return text[place] if place < len(text) else END

    backend = SimulatedBackend(1024, model=recite, vocabulary_size=Bytes.size)
    batcher = Batcher(backend, Bytes(), parallel=4, step_tokens=32, saved_tokens=0)
    job = Job(
        (0, 0),
        PROMPT,
        asked.sampling,
        LIMIT,
        echo=asked.echo,
        constraint=asked.constraint,
        reading=asked.reading,
        begun=begun,
    )
    outcomes: list[Outcome] = []
    try:
        outcomes += batcher.add(job, asked.n, seed=7)
    finally:
        outcomes += drained(batcher, MOST_STEPS)
    events = [outcome.event for outcome in outcomes if not isinstance(outcome.event, EngineFailed)]
    assert len(events) == len(outcomes)
    return events


def of_choice(events: Sequence[Event], index: int) -> list[Event]:
    """The events of one choice, without what is drawn anew each time."""
    mine = [event for event in events if not isinstance(event, Usage) and event.index == index]
    return [
        msgspec.structs.replace(event, id="drawn") if isinstance(event, ToolCallDelta) and event.id else event
        for event in mine
    ]


def tokens_of(events: Sequence[Event], index: int) -> tuple[int, ...]:
    deltas = [event for event in of_choice(events, index) if isinstance(event, AnyDelta)]
    return tuple(token for delta in deltas for token in delta.token_ids)


def readings(tools: bool, thinking: ReasoningSpec | None) -> AnswerReading:
    reading = OutputParserSpec("hermes" if tools else None, thinking)
    closing = tuple(f"{CLOSING}\n\n".encode()) if thinking else ()
    return AnswerReading(
        functools.partial(build_parser, reading),
        thought_budget=thinking.budget_tokens if thinking else None,
        thought_closing=closing,
    )


pieces = ["a", "é", "😀", "\n", " ", "<", OPENING, CLOSING, CALL, CALL[:30], "STOP", "ST", "Hello, you! Bye, ab."]
texts = st.lists(st.sampled_from(pieces), max_size=8).map("".join)
thoughts = (
    st.builds(ReasoningSpec, st.just(OPENING), st.just(CLOSING), st.booleans(), st.sampled_from([None, 0, 3, 20]))
    | st.none()
)
samplings = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.125, 0.15]),  # the likeliest token has 92 % and 75 %
    max_tokens=st.none(),
    min_tokens=st.sampled_from([0, 0, 5]),
    stop=st.sampled_from([(), ("STOP",), ("é", "a\n")]),
    stop_token_ids=st.sampled_from([(), (ord("<"),)]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    ignore_eos=st.booleans(),
    include_stop_text=st.booleans(),
)
requests = st.builds(
    Asked,
    texts,
    samplings,
    st.builds(readings, st.booleans(), thoughts),
    st.sampled_from([None, None, COMPILER.compile(GRAMMAR, "response_format")]),
    st.sampled_from([1, 2]),
    st.sampled_from(["", "Say it: "]),
)


@settings(max_examples=400, deadline=None)
@given(requests, st.data())
def test_a_continued_answer_is_told_like_an_unbroken_one_wherever_it_was_cut(asked: Asked, data: st.DataObject) -> None:
    unbroken = answer(asked)
    begun = []
    for index in range(asked.n):
        tokens = tokens_of(unbroken, index)
        begun.append(tokens[: data.draw(st.integers(0, len(tokens)))])
    continued = answer(asked, tuple(begun))
    for index in range(asked.n):
        assert of_choice(continued, index) == of_choice(unbroken, index)
    first, second = unbroken[-1], continued[-1]
    assert isinstance(first, Usage)
    assert isinstance(second, Usage)
    assert (first.prompt_tokens, first.completion_tokens, first.reasoning_tokens) == (
        second.prompt_tokens,
        second.completion_tokens,
        second.reasoning_tokens,
    )


@pytest.mark.parametrize("cut", range(1, len(CLOSING) + 12))
def test_a_thought_that_was_cut_while_it_was_closed_is_closed_once(cut: int) -> None:
    asked = Asked(
        "xxxxxxxxx Hello",
        reading=readings(tools=False, thinking=ReasoningSpec(OPENING, CLOSING, opened_by_prompt=True, budget_tokens=3)),
        constraint=COMPILER.compile(GRAMMAR, "response_format"),
    )
    unbroken = answer(asked)
    thought = "".join(event.text for event in unbroken if isinstance(event, ReasoningDelta))
    said = "".join(event.text for event in unbroken if isinstance(event, Delta))
    assert (thought, said[:7]) == ("xxx", "Hello, ")
    assert answer(asked, (tokens_of(unbroken, 0)[:cut],)) == unbroken


def test_forced_tokens_that_were_not_told_are_told_without_a_step() -> None:
    asked = Asked("", constraint=COMPILER.compile(GRAMMAR, "response_format"))
    unbroken = answer(asked)
    whole = tokens_of(unbroken, 0)
    assert bytes(whole[:7]) == b"Hello, "
    assert answer(asked, (whole[:3],)) == unbroken


@pytest.mark.parametrize(
    ("begun", "reason"),
    [
        (tuple(b"Hello, nobody"), "its grammar does not allow"),
        ((*b"Hello, you! Bye, ab.", ord("x")), "the choice ends with 20"),
        ((*b"Hello, you! Bye, ab.", END), "the choice ends with 20"),
    ],
)
def test_what_the_grammar_did_not_allow_cannot_have_been_begun(begun: tuple[int, ...], reason: str) -> None:
    asked = Asked("", constraint=COMPILER.compile(GRAMMAR, "response_format"), n=2)
    with pytest.raises(BadRequest, match=reason) as caught:
        answer(asked, (tuple(b"Hello"), begun))
    assert caught.value.parameter == "begun"


def test_what_another_attempt_said_is_taken_as_it_is() -> None:
    events = answer(Asked("something else"), (tuple(b"one more"),))
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "one moreg else"


def test_complete_choices_end_while_others_go_on() -> None:
    asked = Asked("two words", n=2)
    unbroken = answer(asked)
    whole = tokens_of(unbroken, 0)
    continued = answer(asked, (whole, whole[:3]))
    assert continued.index(Finished(0, "stop")) < continued.index(Finished(1, "stop"))
    assert continued[-1] == Usage(len(PROMPT), 2 * len(whole), 0)
