"""An answer that resumes after the tokens of an earlier attempt equals one that was generated without interruption.

The model only recites a text, with the certainty that the temperature allows, so that an answer may be any text.
"""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest, DragomanError
from dragoman.core.events import Delta, Event, Finished, ReasoningDelta, Usage
from dragoman.core.request import SamplingParams
from dragoman.engines.echo.engine import END
from dragoman.engines.llama.batching.batcher import Batcher, RequestOutput
from dragoman.engines.llama.batching.sequence import PLAIN_OUTPUT, EngineRequest, TokenizedOutputFormat
from dragoman.output.constraint import GrammarCompiler, GrammarConstraint
from dragoman.output.reasoning_parser import ReasoningSpec
from dragoman.prompt.output_parser import OutputParserSpec, build_parser
from dragoman.prompt.reasoning import DEFAULT_MARKERS
from tests.support.batching import events_of_choice, run_until_idle, tokens_of_choice
from tests.support.byte_vocabulary import ByteGrammarVocabulary
from tests.support.simulated_backend import SimulatedBackend

OPENING, CLOSING = DEFAULT_MARKERS.opening, DEFAULT_MARKERS.closing

PROMPT = np.array([*b"Say it: "], dtype=np.int32)
MAX_STEPS = 1000
LIMIT = 120
CALL = '<tool_call>\n{"name": "now", "arguments": {"zone": "STOP"}}\n</tool_call>'
GRAMMAR = 'start: "Hello, " ("world" | "you") "! Bye, " /[a-z]{1,5}/ "."'

COMPILER = GrammarCompiler(ByteGrammarVocabulary())


class Scenario(NamedTuple):
    """The part of a request that does not vary between attempts."""

    text: str
    sampling: SamplingParams = SamplingParams(temperature=0.0)
    output_format: TokenizedOutputFormat = PLAIN_OUTPUT
    constraint: GrammarConstraint | None = None
    n: int = 1
    echo: str = ""


def run_scenario(scenario: Scenario, resumed: tuple[tuple[int, ...], ...] = ()) -> list[Event]:
    """Return the events. Raises BadRequest."""
    text = scenario.text.encode()

    def recite(context: Iterable[int]) -> int:
        position = len(list(context)) - len(PROMPT)
        return text[position] if position < len(text) else END

    backend = SimulatedBackend(1024, model=recite, vocabulary_size=ByteGrammarVocabulary.size)
    batcher = Batcher(backend, ByteGrammarVocabulary(), max_sequences=4, max_batched_tokens=32, host_cache_tokens=0)
    request = EngineRequest(
        (0, 0),
        PROMPT,
        scenario.sampling,
        LIMIT,
        echo=scenario.echo,
        constraint=scenario.constraint,
        output_format=scenario.output_format,
        resume_token_ids=resumed,
    )
    outputs: list[RequestOutput] = []
    try:
        outputs += batcher.add(request, scenario.n, seed=7)
    finally:
        outputs += run_until_idle(batcher, MAX_STEPS)
    events = [output.event for output in outputs if not isinstance(output.event, DragomanError)]
    assert len(events) == len(outputs)
    return events


def output_formats(tools: bool, thinking: ReasoningSpec | None) -> TokenizedOutputFormat:
    reading = OutputParserSpec("hermes" if tools else None, thinking)
    return TokenizedOutputFormat(
        functools.partial(build_parser, reading),
        reasoning_budget=thinking.budget_tokens if thinking else None,
        reasoning_closing_token_ids=tuple(CLOSING.encode()) if thinking else (),
        after_reasoning_token_ids=tuple(b"\n\n") if thinking else (),
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
    Scenario,
    text=texts,
    sampling=samplings,
    output_format=st.builds(output_formats, st.booleans(), thoughts),
    constraint=st.sampled_from([None, None, COMPILER.compile(GRAMMAR, "response_format")]),
    n=st.sampled_from([1, 2]),
    echo=st.sampled_from(["", "Say it: "]),
)


@settings(max_examples=200, deadline=None)
@given(requests, st.data())
def test_a_resumed_answer_equals_an_uninterrupted_one_wherever_it_was_cut(
    scenario: Scenario, data: st.DataObject
) -> None:
    unbroken = run_scenario(scenario)
    resume_token_ids = []
    for index in range(scenario.n):
        tokens = tokens_of_choice(unbroken, index)
        resume_token_ids.append(tokens[: data.draw(st.integers(0, len(tokens)))])
    continued = run_scenario(scenario, tuple(resume_token_ids))
    for index in range(scenario.n):
        assert events_of_choice(continued, index) == events_of_choice(unbroken, index)
    first, second = unbroken[-1], continued[-1]
    assert isinstance(first, Usage)
    assert isinstance(second, Usage)
    assert (first.prompt_tokens, first.completion_tokens, first.reasoning_tokens) == (
        second.prompt_tokens,
        second.completion_tokens,
        second.reasoning_tokens,
    )


@pytest.mark.parametrize("cut", range(1, len(CLOSING) + 12))
def test_reasoning_cut_within_its_end_marker_is_ended_once(cut: int) -> None:
    scenario = Scenario(
        "xxxxxxxxx Hello",
        output_format=output_formats(
            tools=False, thinking=ReasoningSpec(OPENING, CLOSING, opened_by_prompt=True, budget_tokens=3)
        ),
        constraint=COMPILER.compile(GRAMMAR, "response_format"),
    )
    unbroken = run_scenario(scenario)
    thought = "".join(event.text for event in unbroken if isinstance(event, ReasoningDelta))
    text = "".join(event.text for event in unbroken if isinstance(event, Delta))
    assert (thought, text[:7]) == ("xxx", "Hello, ")
    assert run_scenario(scenario, (tokens_of_choice(unbroken, 0)[:cut],)) == unbroken


def test_what_stands_between_reasoning_and_a_constrained_answer_is_forced() -> None:
    scenario = Scenario(
        f"xx{CLOSING}Hello, you! Bye, ab.",
        output_format=output_formats(
            tools=False, thinking=ReasoningSpec(OPENING, CLOSING, opened_by_prompt=True, budget_tokens=None)
        ),
        constraint=COMPILER.compile(GRAMMAR, "response_format"),
    )
    whole = tokens_of_choice(run_scenario(scenario), 0)
    assert bytes(whole[: len(CLOSING) + 11]) == f"xx{CLOSING}\n\nHello, ".encode()
    # An attempt that went on without it is continued as it began.
    other = (*f"xx{CLOSING}Hello, ".encode(),)
    assert tokens_of_choice(run_scenario(scenario, (other,)), 0)[: len(other)] == other


def test_missing_forced_tokens_are_published_without_a_step() -> None:
    scenario = Scenario("", constraint=COMPILER.compile(GRAMMAR, "response_format"))
    unbroken = run_scenario(scenario)
    whole = tokens_of_choice(unbroken, 0)
    assert bytes(whole[:7]) == b"Hello, "
    assert run_scenario(scenario, (whole[:3],)) == unbroken


@pytest.mark.parametrize(
    ("resume_token_ids", "reason"),
    [
        (tuple(b"Hello, nobody"), "its grammar does not allow"),
        ((*b"Hello, you! Bye, ab.", ord("x")), "the choice ends with 20"),
        ((*b"Hello, you! Bye, ab.", END), "the choice ends with 20"),
    ],
)
def test_resume_tokens_that_the_grammar_forbids_are_rejected(resume_token_ids: tuple[int, ...], reason: str) -> None:
    scenario = Scenario("", constraint=COMPILER.compile(GRAMMAR, "response_format"), n=2)
    with pytest.raises(BadRequest, match=reason) as caught:
        run_scenario(scenario, (tuple(b"Hello"), resume_token_ids))
    assert caught.value.parameter == "resume_token_ids"


def test_resume_tokens_are_not_sampled_again() -> None:
    events = run_scenario(Scenario("something else"), (tuple(b"one more"),))
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "one moreg else"


def test_complete_choices_finish_while_others_continue() -> None:
    scenario = Scenario("two words", n=2)
    unbroken = run_scenario(scenario)
    whole = tokens_of_choice(unbroken, 0)
    continued = run_scenario(scenario, (whole, whole[:3]))
    assert continued.index(Finished(0, "stop")) < continued.index(Finished(1, "stop"))
    assert continued[-1] == Usage(len(PROMPT), 2 * len(whole), 0)
