"""A tool format that the settings name, with templates that write it, write another one or write none."""

import functools

import pytest

from dragoman.core.request import ChatPrompt, Message, Tool, ToolCall, ToolOptions
from dragoman.output.markup import ToolFormatName
from dragoman.prompt.chatml import CHATML
from dragoman.prompt.control_tokens import SpecialTokenTexts
from dragoman.prompt.output_parser import build_parser
from dragoman.prompt.template import ChatTemplate, RenderedPrompt, check_tool_format
from dragoman.prompt.tool_formats import FORMATS
from dragoman.prompt.tool_formats.detection import write_alike
from dragoman.prompt.tool_formats.format import write_calls
from tests.support.chat_templates import (
    ALTERNATING,
    HERMES,
    SWITCHABLE_REASONING,
    UNKNOWN_TOOLS,
    WRITING,
)
from tests.support.output_parts import parse, tool_call_parts

CHANNELS = "{{ messages[0].content }}<|start|>assistant<|channel|>final<|message|>"
"""Has what gpt-oss's template is known by."""

WITH_CHANNELS = [name for name, known in FORMATS.items() if known.markup.in_channels]
WITHOUT_CHANNELS = [name for name in FORMATS if name not in WITH_CHANNELS]
OTHER_TEMPLATES = [CHATML, ALTERNATING, UNKNOWN_TOOLS, HERMES]

USER = Message(role="user", content="Well?")
CALL = ToolCall("abcdefgh9", "get_weather", '{"city": "Oslo"}')
RESULT = Message(role="tool", content="Rain.", tool_call_id=CALL.id)
TOOLS = ToolOptions((Tool("get_weather", "Describes-the-weather"),))
CONVERSATION = ChatPrompt(
    messages=(USER, Message(role="assistant", content="", tool_calls=(CALL,)), RESULT), tools=TOOLS
)


@functools.cache
def template(source: str, tool_format: ToolFormatName | None) -> ChatTemplate:
    return ChatTemplate(source, bos="", eos="", tool_format=tool_format)


def render(source: str, tool_format: ToolFormatName | None, prompt: ChatPrompt = CONVERSATION) -> RenderedPrompt:
    return template(source, tool_format).render(prompt)


@pytest.mark.parametrize("name", WITHOUT_CHANNELS)
@pytest.mark.parametrize("source", OTHER_TEMPLATES)
def test_a_set_format_is_enforced_read_and_written_whatever_the_template_writes(
    source: str, name: ToolFormatName
) -> None:
    assert template(source, name).tool_format == name
    rendered = render(source, name)
    assert rendered.parser_spec.tool_format == name
    adapted = [message.tool_calls for message in FORMATS[name].adapt(CONVERSATION.messages, TOOLS)]
    written = write_calls(FORMATS[name].markup, next(filter(None, adapted), (CALL,)))
    if write_alike(name, template(source, None).tool_format):  # apart from white space
        assert "".join(written.split()) in "".join(rendered.text.split())
    else:
        assert written in rendered.text
    assert "Describes-the-weather" in rendered.text
    assert "Rain." in rendered.text
    parser = build_parser(rendered.parser_spec)
    assert parser is not None
    assert parse(parser, written) == tool_call_parts(0, CALL.name, CALL.arguments)


@pytest.mark.parametrize(("name", "source"), WRITING)
def test_a_template_that_writes_the_set_format_renders_as_without_the_setting(
    name: ToolFormatName, source: str
) -> None:
    assert render(source, name) == render(source, None)


@pytest.mark.parametrize("source", [CHATML, ALTERNATING])
def test_a_template_without_tools_renders_hermes_as_the_generic_format(source: str) -> None:
    assert render(source, "hermes").text == render(source, "generic").text == render(source, None).text


def test_a_template_is_not_given_the_tools_that_it_would_describe_in_another_format() -> None:
    text = render(HERMES, "llama3").text
    assert "Functions:" not in text
    assert "<tool_call>" not in text
    assert render(UNKNOWN_TOOLS, "mistral").text.startswith("@system You may call")


def test_formats_that_differ_in_white_space_only_are_written_by_the_same_template() -> None:
    assert write_alike("glm45", "glm47")
    assert not write_alike("hermes", "qwen3_coder")
    assert not write_alike("generic", "hermes")


def test_earlier_arguments_that_the_set_format_cannot_write_are_none() -> None:
    def prompt(arguments: str) -> ChatPrompt:
        call = Message(role="assistant", content="", tool_calls=(ToolCall("a", "f", arguments),))
        return ChatPrompt(messages=(USER, call), tools=TOOLS)

    assert render(CHATML, "qwen3_coder", prompt('{"city": ')) == render(CHATML, "qwen3_coder", prompt("{}"))


def test_markup_that_people_wrote_is_no_token_of_the_set_format() -> None:
    special = SpecialTokenTexts((), ("<tool_call>", "</tool_call>", "[TOOL_CALLS]"))
    prompt = ChatPrompt(messages=(Message(role="user", content="[TOOL_CALLS] <tool_call>"),), tools=TOOLS)

    def literals(tool_format: ToolFormatName | None) -> int:
        made = ChatTemplate(CHATML, bos="", eos="", special_texts=special, tool_format=tool_format)
        return len(made.render(prompt).literal_offsets)

    assert literals(None) == 1
    assert literals("mistral") == 2


def test_a_set_format_changes_nothing_in_requests_without_tools() -> None:
    prompt = ChatPrompt(messages=(USER,))
    for source in (*OTHER_TEMPLATES, SWITCHABLE_REASONING):
        assert render(source, "kimi_k2", prompt) == render(source, None, prompt)


def test_a_template_that_cannot_be_rendered_without_its_tools_takes_only_its_own_format() -> None:
    source = "{{ tools[0].function.name }}" + HERMES
    check_tool_format(source, "hermes")
    with pytest.raises(ValueError, match=r"tool_format mistral cannot be set: the model's chat template .* applied"):
        check_tool_format(source, "mistral")


@pytest.mark.parametrize("name", FORMATS)
def test_channels_and_formats_without_them_do_not_fit_together(name: ToolFormatName) -> None:
    fitting, other = (CHANNELS, CHATML) if name in WITH_CHANNELS else (CHATML, CHANNELS)
    check_tool_format(fitting, name)
    with pytest.raises(ValueError, match=f"tool_format {name} .* channels"):
        check_tool_format(other, name)
