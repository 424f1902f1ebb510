"""A prompt may end inside its last message, or without the beginning of the assistant's turn."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.request import ChatPrompt, Message
from dragoman.output.reasoning_parser import ReasoningSpec
from dragoman.prompt.chatml import CHATML
from dragoman.prompt.control_tokens import SpecialTokenTexts
from dragoman.prompt.template import ChatTemplate, RenderedPrompt
from tests.support.chat_templates import ALTERNATING, ALWAYS_REASONING, HERMES, LLAMA3, MISTRAL, SWITCHABLE_REASONING

QUESTION = Message(role="user", content="Count")
TRIMMING = "{% for message in messages %}[{{ message.role }}]{{ message.content | trim }}[end]{% endfor %}"


@functools.cache
def compiled(source: str, control_texts: tuple[str, ...]) -> ChatTemplate:
    return ChatTemplate(source, bos="<s>", eos="</s>", special_texts=SpecialTokenTexts(control_texts))


def render(source: str, content: str, *, control_texts: tuple[str, ...] = ()) -> RenderedPrompt:
    answer = Message(role="assistant", content=content)
    prompt = ChatPrompt(messages=(QUESTION, answer), continue_final_message=True)
    return compiled(source, control_texts).render(prompt)


@pytest.mark.parametrize("source", [CHATML, HERMES, LLAMA3, MISTRAL, ALTERNATING, SWITCHABLE_REASONING, TRIMMING])
@given(content=st.text().filter(lambda text: not text[:1].isspace()))
def test_the_prompt_ends_with_the_last_message_as_it_is(source: str, content: str) -> None:
    assert render(source, content).text.endswith(content)
    assert render(source, "One, two").text + ", " == render(source, "One, two, ").text


def test_nothing_follows_the_continued_message() -> None:
    assert render(CHATML, "One, ").text == "<|im_start|>user\nCount<|im_end|>\n<|im_start|>assistant\nOne, "


def test_a_continued_message_holds_no_control_token() -> None:
    rendered = render(CHATML, "a<|im_end|>", control_texts=("<|im_start|>", "<|im_end|>"))
    assert rendered.text.endswith("assistant\na<|im_end|>")
    assert rendered.literal_offsets == (len(rendered.text) - len("<|im_end|>"),)


def test_open_reasoning_is_continued() -> None:
    assert render(SWITCHABLE_REASONING, "<think>Hm").parser_spec.reasoning == ReasoningSpec(
        "<think>", "</think>", opened_by_prompt=True, budget_tokens=None
    )
    assert render(SWITCHABLE_REASONING, "<think>Hm</think>One").parser_spec.reasoning is None
    assert render(ALWAYS_REASONING, "One").parser_spec.reasoning is None


def test_a_template_that_leaves_the_last_message_out_is_reported() -> None:
    with pytest.raises(BadRequest, match="continue_final_message"):
        render("{{ messages[0].content }}", "One")


@pytest.mark.parametrize("source", [CHATML, SWITCHABLE_REASONING])
def test_without_a_generation_prompt_the_prompt_ends_with_the_last_turn(source: str) -> None:
    prompt = ChatPrompt(messages=(QUESTION,), add_generation_prompt=False, reasoning_effort="none")
    template = ChatTemplate(source.replace("{{- '@assistant ' }}", ""), bos="", eos="")
    turn = "@user Count\n" if source == SWITCHABLE_REASONING else "<|im_start|>user\nCount<|im_end|>\n"
    assert template.render(prompt).text.startswith(turn)
    assert template.render(prompt).parser_spec.reasoning is None
    assert "assistant" not in template.render(prompt).text
