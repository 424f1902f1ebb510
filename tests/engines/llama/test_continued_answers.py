"""An answer that resumes after the tokens of an earlier attempt equals one that was generated without interruption."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.events import Delta, Finished, ReasoningDelta, Usage
from dragoman.engines.echo.engine import END
from dragoman.output.reasoning_parser import ReasoningSpec
from tests.support.batching import events_of_choice, tokens_of_choice
from tests.support.recitation import (
    CLOSING,
    COMPILER,
    GRAMMAR,
    OPENING,
    PROMPT,
    Scenario,
    output_formats,
    run_scenario,
    scenarios,
)


@settings(max_examples=200, deadline=None)
@given(scenarios(), st.data())
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
