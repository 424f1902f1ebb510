"""Every family matches its templates, and writes calls in messages as they are parsed from answers."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.request import ChatPrompt, Message, Tool, ToolCall, ToolOptions
from dragoman.output.markup import ToolFormatName
from dragoman.prompt.output_parser import build_parser
from dragoman.prompt.template import CHATML, ChatTemplate
from dragoman.prompt.tool_formats import FORMATS, detect_tool_format
from dragoman.prompt.tool_formats.format import write_calls
from tests.support.chat_templates import ALTERNATING, HERMES, LLAMA3, MISTRAL, SWITCHABLE_REASONING, UNKNOWN_TOOLS
from tests.support.output_parts import parse, tool_call_parts

FAMILIES: list[tuple[ToolFormatName, str]] = [
    ("hermes", HERMES),
    ("llama3", LLAMA3),
    ("mistral", MISTRAL),
    ("generic", UNKNOWN_TOOLS),
    ("generic", ALTERNATING),
    ("generic", CHATML),
]

TOOLS = ToolOptions((Tool("get_weather", "The weather of a city.", {"type": "object"}), Tool("get-time")))
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
ARGUMENTS = st.dictionaries(st.text(max_size=8), st.text() | st.integers() | st.lists(st.booleans()), max_size=3)


def test_every_family_is_recognised_by_its_templates() -> None:
    for name, source in FAMILIES:
        assert detect_tool_format(source) == name


@pytest.mark.parametrize(
    "source",
    [
        SWITCHABLE_REASONING,
        "{% for message in messages %}<tool_call>{% endfor %}",
        "{{ tools }}<tool_call><function={{ name }}><parameter=a>",
        "{{ tools }}<tool_call>f<arg_key>a</arg_key>",
        "{{ tools }}[TOOL_CALLS]f[ARGS]{}",
        "{{ messages[0].tool_calls }}<|python_tag|>",
    ],
)
def test_a_template_that_writes_calls_in_another_way_or_no_tools_at_all_is_generic(source: str) -> None:
    assert detect_tool_format(source) == "generic"


@pytest.mark.parametrize(("name", "source"), FAMILIES)
@settings(max_examples=30)
@given(st.lists(st.tuples(NAMES, ARGUMENTS), min_size=1, max_size=3))
def test_parsed_calls_are_written_back_unchanged(
    name: ToolFormatName, source: str, functions: list[tuple[str, dict[str, object]]]
) -> None:
    template = ChatTemplate(source, bos="", eos="")
    question = (Message(role="system", content="Be brief."), Message(role="user", content="Well?"))
    spec = template.render(ChatPrompt(messages=question, tools=TOOLS)).parser_spec
    assert spec.tool_format == name

    calls = tuple(
        ToolCall(f"call_{number:024}", function, json.dumps(arguments, ensure_ascii=False))
        for number, (function, arguments) in enumerate(functions)
    )
    answer = write_calls(FORMATS[name].markup, calls)
    parser = build_parser(spec)
    assert parser is not None
    assert parse(parser, *answer) == [
        part for index, call in enumerate(calls) for part in tool_call_parts(index, call.name, call.arguments)
    ]

    results = tuple(Message(role="tool", content=f"<{call.id}>", tool_call_id=call.id) for call in calls)
    prompt = template.render(
        ChatPrompt(messages=(*question, Message(role="assistant", content="", tool_calls=calls), *results), tools=TOOLS)
    ).text
    # Llama 3 has a message for each call; the others have all calls in one message, as in the answer.
    for written in [write_calls(FORMATS[name].markup, [call]) for call in calls] if name == "llama3" else [answer]:
        assert written in prompt
    positions = [prompt.index(result.content) for result in results]
    assert positions == sorted(positions)


@pytest.mark.parametrize(("name", "source"), FAMILIES)
def test_every_function_is_shown_to_the_model(name: ToolFormatName, source: str) -> None:
    prompt = ChatPrompt(
        messages=(Message(role="system", content="Be brief."), Message(role="user", content="Well?")), tools=TOOLS
    )
    text = ChatTemplate(source, bos="", eos="").render(prompt).text
    assert '{"name": "get_weather", "description": "The weather of a city.", "parameters": {"type": "object"}}' in text
    assert "get-time" in text
    assert "Be brief." in text
    assert "@tools" not in text


@pytest.mark.parametrize(("name", "source"), FAMILIES)
def test_earlier_calls_are_written_even_if_nothing_may_be_called_now(name: ToolFormatName, source: str) -> None:
    calls = (ToolCall("call_1", "get_weather", "{}"),)
    messages = (
        Message(role="user", content="Well?"),
        Message(role="assistant", content="", tool_calls=calls),
        Message(role="tool", content="Rain.", tool_call_id="call_1"),
    )
    rendered = ChatTemplate(source, bos="", eos="").render(ChatPrompt(messages=messages))
    assert write_calls(FORMATS[name].markup, calls) in rendered.text
    assert "Rain." in rendered.text
    assert rendered.parser_spec.tool_format is None
