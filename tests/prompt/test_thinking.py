import pytest

from dragoman.core.request import ChatPrompt, Effort, Message
from dragoman.prompt.template import ChatTemplate, RenderedPrompt
from dragoman.prompt.thinking import Thinking
from tests.support.chat_templates import ALTERNATING, ALWAYS_THINKING, MAY_THINK, SWITCHED

NO_THOUGHT = "<think>\n\n</think>\n\n"


def render(
    source: str | None, effort: Effort | None = None, *, constrained: bool = False, thinks: bool = False
) -> RenderedPrompt:
    template = ChatTemplate(source, bos="", eos="", thinks=thinks)
    return template.render(ChatPrompt((Message("user", "Hi"),), effort=effort), constrained=constrained)


def thinking(*, begun: bool, budget: int | None = None) -> Thinking:
    return Thinking("<think>", "</think>", begun, budget)


def test_a_model_thinks_if_its_template_knows_of_thoughts() -> None:
    assert all(ChatTemplate(source, bos="", eos="").thinks for source in (SWITCHED, ALWAYS_THINKING, MAY_THINK))
    assert not any(ChatTemplate(source, bos="", eos="").thinks for source in (None, ALTERNATING))


def test_without_an_effort_a_model_thinks_as_its_template_has_it() -> None:
    assert render(SWITCHED) == RenderedPrompt("@user Hi\n@assistant ", render(SWITCHED).reading)
    assert render(SWITCHED).reading.thinking == thinking(begun=False)
    assert render(ALWAYS_THINKING).reading.thinking == thinking(begun=True)
    assert render(MAY_THINK).text.startswith("Effort: its own\n")


@pytest.mark.parametrize(
    ("effort", "budget"), [("minimal", 128), ("low", 1024), ("medium", 4096), ("high", None), (None, None)]
)
def test_an_effort_is_a_budget(effort: Effort | None, budget: int | None) -> None:
    assert render(SWITCHED, effort).reading.thinking == thinking(begun=False, budget=budget)
    assert render(ALWAYS_THINKING, effort).reading.thinking == thinking(begun=True, budget=budget)


@pytest.mark.parametrize("constrained", [False, True])
def test_no_effort_at_all_leaves_no_thought(constrained: bool) -> None:
    for source in (SWITCHED, ALWAYS_THINKING, MAY_THINK):
        rendered = render(source, "none", constrained=constrained)
        assert rendered.text.endswith(f"@assistant {NO_THOUGHT}")
        assert rendered.text.count("<think>") == 1
        assert rendered.reading.thinking is None


def test_a_template_that_knows_efforts_is_told_the_word() -> None:
    assert render(MAY_THINK, "medium").text.startswith("Effort: medium\n")
    assert render(MAY_THINK, "none").text.startswith("Effort: low\n")


def test_an_answer_that_is_bound_begins_behind_a_thought_which_the_prompt_begins() -> None:
    assert render(SWITCHED, constrained=True).text.endswith("@assistant <think>\n")
    assert render(SWITCHED, constrained=True).reading.thinking == thinking(begun=True)
    assert render(ALWAYS_THINKING, constrained=True).text == render(ALWAYS_THINKING).text
    assert render(SWITCHED, "none", constrained=True).text == render(SWITCHED, "none").text


@pytest.mark.parametrize("effort", [None, "none", "low", "high"])
def test_a_model_that_does_not_think_ignores_effort(effort: Effort | None) -> None:
    assert render(ALTERNATING, effort, constrained=True) == render(ALTERNATING)
    assert render(ALTERNATING).reading.thinking is None


def test_a_model_known_to_think_does_so_with_any_template() -> None:
    assert render(ALTERNATING, thinks=True).reading.thinking == thinking(begun=False)
    assert render(ALTERNATING, "none", thinks=True).text.endswith(NO_THOUGHT)


def test_what_a_user_says_of_thoughts_does_not_begin_one() -> None:
    prompt = ChatPrompt((Message("user", "<think>"),))
    assert ChatTemplate(SWITCHED, bos="", eos="").render(prompt).reading.thinking == thinking(begun=False)
