from typing import Literal

import pytest

from dragoman.core.request import ChatPrompt, Message, ReasoningEffort, Tool, ToolOptions
from dragoman.output.parts import ContentText, ReasoningText
from dragoman.output.reasoning_parser import ReasoningParser, ReasoningSpec
from dragoman.prompt.output_parser import build_parser
from dragoman.prompt.template import ChatTemplate, RenderedPrompt
from tests.support.chat_templates import (
    ALTERNATING,
    ALWAYS_REASONING,
    EFFORT_REASONING,
    EXAONE4,
    SMOLLM3,
    SWITCHABLE_REASONING,
    open_chat_template,
    requires_open_models,
)
from tests.support.output_parts import parse

EMPTY_REASONING = "<think>\n\n</think>\n\n"

EXAONE_DEEP = """
{%- for message in messages %}
    {{- '[|' + message.role + '|]' + message.content.split('</thought>')[-1] + '\n' }}
{%- endfor %}
{{- '[|assistant|]<thought>\n' }}"""
"""Opens the reasoning itself, with another tag."""


def render(
    source: str | None,
    effort: ReasoningEffort | None = None,
    *,
    constrained: bool = False,
    supports_reasoning: bool = False,
) -> RenderedPrompt:
    template = ChatTemplate(source, bos="", eos="", supports_reasoning=supports_reasoning)
    return render_template(template, effort, constrained=constrained)


def render_template(
    template: ChatTemplate, effort: ReasoningEffort | None, *, constrained: bool = False
) -> RenderedPrompt:
    prompt = ChatPrompt(messages=(Message(role="user", content="Hi"),), reasoning_effort=effort)
    return template.render(prompt, constrained=constrained)


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


@pytest.mark.parametrize(("choice", "is_opened"), [("auto", False), ("required", True), ("named", True)])
def test_the_prompt_opens_the_reasoning_before_a_call_that_is_required(
    choice: Literal["auto", "required", "named"], is_opened: bool
) -> None:
    prompt = ChatPrompt(messages=(Message(role="user", content="Hi"),), tools=ToolOptions((Tool("f"),), choice, "f"))
    rendered = ChatTemplate(SWITCHABLE_REASONING, bos="", eos="").render(prompt)
    assert rendered.text.endswith("@assistant <think>\n") == is_opened
    assert rendered.parser_spec.reasoning == reasoning_spec(opened=is_opened)


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


def writes_reasoning(opening: str, closing: str, before: str = "") -> str:
    """Return a template that writes the reasoning of earlier answers between these markers."""
    return (
        f"{before}{{% for m in messages %}}@{{{{ m.role }}}} "
        f"{{% if m.reasoning_content %}}{opening}{{{{ m.reasoning_content }}}}{closing}{{% endif %}}"
        "{{ m.content }}\n{% endfor %}@assistant "
    )


@pytest.mark.parametrize(
    ("opening", "closing", "special_tokens"),
    [
        ("[THINK]", "[/THINK]", ()),
        ("<seed:think>", "</seed:think>", ()),
        ("<mm:think>", "</mm:think>", ()),
        ("<|START_THINKING|>", "<|END_THINKING|>", ()),
        ("<|inner_prefix|>", "<|inner_suffix|>", ()),
        ("<|channel>thought\n", "<channel|>", ("<|channel>", "<channel|>")),
        ("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]", ()),
    ],
)
def test_markers_of_other_families_are_known(opening: str, closing: str, special_tokens: tuple[str, ...]) -> None:
    source = writes_reasoning(opening, closing)
    spec = render(source, "low").parser_spec.reasoning
    alone = opening == "<mm:think>"
    assert spec == ReasoningSpec(opening, closing, False, 1024, special_tokens, after_closing="", closes_alone=alone)
    parser = ReasoningParser(spec)
    assert parse(parser, *f"{opening}Hm.\n{closing}\n\nYes.") == [ReasoningText("Hm."), ContentText("Yes.")]
    assert render(source, "none").text.endswith(f"@assistant {opening}{closing}")
    assert render(source, constrained=True).text.endswith(f"@assistant {opening}")
    assert render(f"{source}{opening}").parser_spec.reasoning == ReasoningSpec(
        opening, closing, True, None, special_tokens, after_closing=""
    )
    assert render(f"{source}{closing}").parser_spec.reasoning is None


@pytest.mark.parametrize(
    ("switch", "effort", "text"),
    [
        ("{% if not thinking is defined %}off{% else %}{{ thinking }}{% endif %}", None, "off"),
        ("{% if not thinking is defined %}off{% else %}{{ thinking }}{% endif %}", "high", "True"),
        ("{% if thinking is defined %}{{ thinking }}{% endif %}", "none", "False"),
        ("{% if thinking_budget is defined %}{{ thinking_budget }}{% endif %}", "low", "1024"),
        ("{% if thinking_budget is defined %}{{ thinking_budget }}{% endif %}", "none", "0"),
        ("{% if thinking_budget is defined %}{{ thinking_budget }}{% else %}no limit{% endif %}", "high", "no limit"),
        ("{% if thinking %}on{% else %}off{% endif %}", "high", "on"),
        ("{% if thinking %}on{% else %}off{% endif %}", "none", "off"),
        ("{{ thinking_mode | default('its own') }}", "none", "disabled"),
        ("{{ thinking_mode | default('its own') }}", "low", "enabled"),
        ("{{ reasoning }}", "none", "False"),
        ("{{ reasoning_effort | default('no_think') }}{# 'no_think' #}", "none", "no_think"),
        ("{{ reasoning_effort | default('no_think') }}{# 'no_think' #}", "medium", "high"),
        ("{{ reasoning_effort | default('no_think') }}{# 'no_think' #}", "minimal", "low"),
    ],
)
def test_an_effort_sets_the_switch_that_the_template_has(
    switch: str, effort: ReasoningEffort | None, text: str
) -> None:
    assert render(writes_reasoning("<think>", "</think>", before=switch), effort).text.startswith(f"{text}@")


def test_a_field_of_a_message_is_no_switch() -> None:
    source = writes_reasoning("<think>", "</think>", before="{% if messages[0].thinking is defined %}a{% endif %}")
    assert render(source, "none").text.endswith("@assistant <think></think>")


def test_reasoning_of_earlier_answers_has_the_name_that_the_template_reads() -> None:
    source = "{% for m in messages %}{{ m.thinking }}{% endfor %}</think>"
    messages = (Message(role="assistant", content="So.", reasoning="Hm."),)
    assert ChatTemplate(source, bos="", eos="").render(ChatPrompt(messages=messages)).text == "Hm.</think>"


@pytest.mark.parametrize(
    "written", ["<think>Hm.</think>So.", "<think>\nHm.\n</think>\nSo.", "<think>\n\nHm.\n</think>\n\nSo."]
)
@pytest.mark.parametrize("only_beside_calls", [False, True])
def test_white_space_around_reasoning_is_that_which_the_template_writes(written: str, only_beside_calls: bool) -> None:
    source = (
        "{% for m in messages %}@{{ m.role }} {% if m.reasoning_content "
        f"{'and m.tool_calls ' if only_beside_calls else ''}%}}"
        f"{written.replace('Hm.', '{{ m.reasoning_content }}').replace('So.', '{{ m.content }}')}|"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}@assistant "
    )
    before, after = written.split("Hm.")
    closing_and_space = after.removesuffix("So.")
    spec = render(source, "low").parser_spec.reasoning
    assert spec is not None
    assert f"{spec.closing}{spec.after_closing}" == closing_and_space.lstrip()
    assert render(source, "none").text.endswith(f"@assistant {before}{closing_and_space}")
    assert render(source, constrained=True).text.endswith(f"@assistant {before}")


@pytest.mark.parametrize(("choice", "space"), [("auto", "\n"), ("required", "\n\n")])
def test_white_space_after_reasoning_is_that_before_calls_if_the_answer_must_call(
    choice: Literal["auto", "required"], space: str
) -> None:
    source = (
        "{% for m in messages %}{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n{% endif %}"
        "{{ m.content }}{% for c in m.tool_calls or [] %}{{ '\n<tool_call>' }}{{ c.function.name }}{% endfor %}"
        "{% endfor %}"
    )
    tools = ToolOptions((Tool("f"),), choice)
    prompt = ChatPrompt(messages=(Message(role="user", content="Hi"),), tools=tools, reasoning_effort="high")
    spec = ChatTemplate(source, bos="", eos="").render(prompt).parser_spec.reasoning
    assert spec is not None
    assert spec.after_closing == space


def test_reasoning_of_earlier_answers_is_a_block_of_the_content_where_the_template_reads_it_there() -> None:
    source = """{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for block in m.content %}
{%- if block['type'] == 'thinking' %}[THINK]{{ block['thinking'] }}[/THINK]{% else %}{{ block['text'] }}{% endif %}
{%- endfor %}{% endif %}{% endfor %}"""
    for content in ("So.", ""):
        messages = (Message(role="user", content="Hi"), Message(role="assistant", content=content, reasoning="Hm."))
        prompt = ChatPrompt(messages=messages, add_generation_prompt=False)
        assert ChatTemplate(source, bos="", eos="").render(prompt).text == f"Hi[THINK]Hm.[/THINK]{content}"


@pytest.mark.parametrize(
    ("source", "by_itself", "with_effort"),
    [(EXAONE4, "closed", "opened"), (SMOLLM3, "free", "free"), (EXAONE_DEEP, "opened", "opened")],
)
def test_reasoning_is_begun_and_ended_by_prompt_or_model(source: str, by_itself: str, with_effort: str) -> None:
    efforts: dict[ReasoningEffort | None, str] = {None: by_itself, "none": "closed", "high": with_effort}
    for effort, state in efforts.items():
        rendered = render(source, effort)
        reasoning = rendered.parser_spec.reasoning
        tag = "<thought>" if source is EXAONE_DEEP else "<think>"
        assert state == ("closed" if reasoning is None else "opened" if reasoning.opened_by_prompt else "free")
        assert reasoning is None or reasoning.opening == tag
        end = {"closed": tag.replace("<", "</"), "opened": tag, "free": "assistant"}[state]
        assert rendered.text.rstrip().endswith(end)


@requires_open_models
@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("Kimi-K3", ("thinking_effort=low", "thinking_effort=low", "thinking_effort=high", "thinking_effort=max")),
        ("muse-glimmer", ("strength: low.", "strength: low.", "strength: medium.", "strength: high.")),
        ("upstage-Solar-Open-100B", ("<|think|><|end|>", "<|think|><|end|>", "", "")),
    ],
)
def test_efforts_become_the_words_that_a_template_knows(model: str, words: tuple[str, str, str, str]) -> None:
    efforts: tuple[ReasoningEffort, ...] = ("minimal", "low", "medium", "high")
    for effort, word in zip(efforts, words, strict=True):
        assert word in render_template(open_chat_template(model), effort).text
    assert "<|think|>" not in render_template(open_chat_template("upstage-Solar-Open-100B"), "high").text


@requires_open_models
@pytest.mark.parametrize("model", ["upstage-Solar-Open-100B", "muse-glimmer", "Kimi-K3"])
def test_an_answer_that_a_message_begins_goes_on_within_its_element(model: str) -> None:
    template = open_chat_template(model)
    messages = (Message(role="user", content="Hi"), Message(role="assistant", content="Good"))
    rendered = template.render(ChatPrompt(messages=messages, add_generation_prompt=False, continue_final_message=True))
    assert rendered.text.endswith("Good")
    parser, element = build_parser(rendered.parser_spec), rendered.parser_spec.text_element
    assert parser is not None
    assert element is not None
    assert parse(parser, f" day.{element.closing}") == [ContentText(" day.")]
