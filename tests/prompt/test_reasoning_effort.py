import pytest

from dragoman.core.request import ChatPrompt, Message, ReasoningEffort
from dragoman.output.reasoning_parser import ReasoningSpec
from dragoman.prompt.template import ChatTemplate, RenderedPrompt
from tests.support.chat_templates import ALTERNATING, ALWAYS_REASONING, EFFORT_REASONING, SWITCHABLE_REASONING

EMPTY_REASONING = "<think>\n\n</think>\n\n"


def render(
    source: str | None,
    effort: ReasoningEffort | None = None,
    *,
    constrained: bool = False,
    supports_reasoning: bool = False,
) -> RenderedPrompt:
    template = ChatTemplate(source, bos="", eos="", supports_reasoning=supports_reasoning)
    return template.render(
        ChatPrompt(messages=(Message(role="user", content="Hi"),), reasoning_effort=effort), constrained=constrained
    )


def reasoning_spec(*, opened: bool, budget: int | None = None) -> ReasoningSpec:
    return ReasoningSpec("<think>", "</think>", opened_by_prompt=opened, budget_tokens=budget)


def test_a_model_supports_reasoning_if_its_template_does() -> None:
    assert all(
        ChatTemplate(source, bos="", eos="").supports_reasoning
        for source in (SWITCHABLE_REASONING, ALWAYS_REASONING, EFFORT_REASONING)
    )
    assert not any(ChatTemplate(source, bos="", eos="").supports_reasoning for source in (None, ALTERNATING))


def test_without_an_effort_reasoning_follows_the_template() -> None:
    assert render(SWITCHABLE_REASONING) == RenderedPrompt(
        "@user Hi\n@assistant ", render(SWITCHABLE_REASONING).parser_spec
    )
    assert render(SWITCHABLE_REASONING).parser_spec.reasoning == reasoning_spec(opened=False)
    assert render(ALWAYS_REASONING).parser_spec.reasoning == reasoning_spec(opened=True)
    assert render(EFFORT_REASONING).text.startswith("Effort: its own\n")


@pytest.mark.parametrize(
    ("effort", "budget"), [("minimal", 128), ("low", 1024), ("medium", 4096), ("high", None), (None, None)]
)
def test_an_effort_sets_the_token_budget(effort: ReasoningEffort | None, budget: int | None) -> None:
    assert render(SWITCHABLE_REASONING, effort).parser_spec.reasoning == reasoning_spec(opened=False, budget=budget)
    assert render(ALWAYS_REASONING, effort).parser_spec.reasoning == reasoning_spec(opened=True, budget=budget)


@pytest.mark.parametrize("constrained", [False, True])
def test_effort_none_disables_reasoning(constrained: bool) -> None:
    for source in (SWITCHABLE_REASONING, ALWAYS_REASONING, EFFORT_REASONING):
        rendered = render(source, "none", constrained=constrained)
        assert rendered.text.endswith(f"@assistant {EMPTY_REASONING}")
        assert rendered.text.count("<think>") == 1
        assert rendered.parser_spec.reasoning is None


def test_a_template_that_supports_efforts_receives_the_effort() -> None:
    assert render(EFFORT_REASONING, "medium").text.startswith("Effort: medium\n")
    assert render(EFFORT_REASONING, "none").text.startswith("Effort: low\n")


def test_the_prompt_opens_the_reasoning_of_a_constrained_answer() -> None:
    assert render(SWITCHABLE_REASONING, constrained=True).text.endswith("@assistant <think>\n")
    assert render(SWITCHABLE_REASONING, constrained=True).parser_spec.reasoning == reasoning_spec(opened=True)
    assert render(ALWAYS_REASONING, constrained=True).text == render(ALWAYS_REASONING).text
    assert render(SWITCHABLE_REASONING, "none", constrained=True).text == render(SWITCHABLE_REASONING, "none").text


@pytest.mark.parametrize("effort", [None, "none", "low", "high"])
def test_a_model_without_reasoning_ignores_effort(effort: ReasoningEffort | None) -> None:
    assert render(ALTERNATING, effort, constrained=True) == render(ALTERNATING)
    assert render(ALTERNATING).parser_spec.reasoning is None


def test_a_model_known_to_reason_does_so_under_any_template() -> None:
    assert render(ALTERNATING, supports_reasoning=True).parser_spec.reasoning == reasoning_spec(opened=False)
    assert render(ALTERNATING, "none", supports_reasoning=True).text.endswith(EMPTY_REASONING)


def test_a_marker_in_a_user_message_does_not_open_reasoning() -> None:
    prompt = ChatPrompt(messages=(Message(role="user", content="<think>"),))
    assert ChatTemplate(SWITCHABLE_REASONING, bos="", eos="").render(prompt).parser_spec.reasoning == reasoning_spec(
        opened=False
    )
