"""An answer whose tokens were drafted equals one without drafts, whatever the request controls."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.events import Usage
from dragoman.engines.llama.arrays import TokenArray
from tests.support.batching import events_of_choice
from tests.support.recitation import COMPILER, Recitation, Scenario, run_recitation, scenarios

SENTENCES = ["Hello, you! Bye, ab.", "<think>ab ab</think>", '{"name": "now"}', "STOP", "é😀", "ab ab ab ab "]
RECORD = 'start: "[" item ("," item)* "]"\nitem: /\\{"k":[a-d]{1,4}\\}/'

repetitive_texts = st.lists(st.sampled_from(SENTENCES), max_size=6).map("".join)


def prompt_of(text: str) -> TokenArray:
    return np.array([*f"Say {text} it: ".encode()], dtype=np.int32)


@settings(max_examples=150, deadline=None)
@given(scenarios(repetitive_texts, repetitive_texts.map(prompt_of), st.sampled_from([None, 2])))
def test_events_are_the_same_with_and_without_drafts(scenario: Scenario) -> None:
    """Text, tokens, log-probabilities, reasons and usage, with grammars, stops, penalties, seeds, tools, reasoning."""
    with_drafts, without = (run_recitation(scenario, max_draft_tokens=most).events for most in (15, 0))
    for index in range(scenario.n):
        assert events_of_choice(with_drafts, index) == events_of_choice(without, index)
    assert isinstance(with_drafts[-1], Usage)
    assert with_drafts[-1] == without[-1]


def recite(text: str, **controls: object) -> tuple[Recitation, Recitation]:
    scenario = Scenario(text, prompt=prompt_of(text))._replace(**controls)  # type: ignore[arg-type]
    return run_recitation(scenario), run_recitation(scenario, max_draft_tokens=0)


def test_an_answer_that_repeats_its_prompt_takes_a_fraction_of_the_steps() -> None:
    with_drafts, without = recite("A text that stands in the prompt is repeated word for word.")
    assert with_drafts.events == without.events
    assert with_drafts.steps < without.steps / 3


def test_drafts_follow_the_grammar_and_save_steps_under_it() -> None:
    text = '[{"k":abcd},{"k":aacd},{"k":abcd},{"k":aacd}]'
    constraint = COMPILER.compile(RECORD, "response_format")
    with_drafts, without = recite(text, constraint=constraint)
    assert with_drafts.events == without.events
    assert with_drafts.accepted_draft_tokens > 0
    assert with_drafts.steps < without.steps
