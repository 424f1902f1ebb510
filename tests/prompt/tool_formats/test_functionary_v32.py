"""Functionary 3.2's prompt ends where a text or a call begins, and only a function's name tells a call from text."""

from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.request import ChatPrompt, JsonSchemaFormat, Message, Tool, ToolCall, ToolOptions
from dragoman.output.grammar import build_grammar
from dragoman.output.parts import ContentText, OutputPart, ToolCallStart
from dragoman.output.tool_call_parser import ToolCallMode
from dragoman.prompt.output_parser import OutputParserSpec, build_parser
from dragoman.prompt.template import ChatTemplate
from dragoman.prompt.tool_formats.functionary_v32 import MARKUP, TO_ALL
from tests.support.chat_templates import FUNCTIONARY_V32
from tests.support.grammars import OTHER, SPECIAL, allows, generate, tokens_of, validation_errors
from tests.support.output_parts import parse, tool_call_parts

TEMPLATE = ChatTemplate(FUNCTIONARY_V32, bos="", eos="")
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 5}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = ToolOptions((Tool("get_weather", parameters=CITY), Tool("get"), Tool("python", parameters=CITY)))
QUESTION = (Message(role="user", content="Well?"),)
FORMAT = JsonSchemaFormat(CITY, strict=True)
OSLO = ToolCall("1", "get_weather", '{"city": "Oslo"}')
SPEC = TEMPLATE.render(ChatPrompt(messages=QUESTION, tools=TOOLS)).parser_spec
PLAIN = TEMPLATE.render(ChatPrompt(messages=QUESTION)).parser_spec

LOOK_ALIKES = [
    ">>> print(1)\n>>>print(2)",
    ">>>all\nYes.",
    '>>>get_rain\n{"city": "Oslo"}',
    '>>>get_weather {"city": "Oslo"}',
    '>>>get_weather{"city": "Oslo"}',
    '>>get_weather\n{"city": "Oslo"}',
    'get_weather\n{"city": "Oslo"}',
    '>>>get_weather\t\n{"city": "Oslo"}',
    "<<<<<<<\na\n=======\nb\n>>>>>>> main\n",
    ">>>",
    ">>>get_weather",
]
"""Texts that have parts of the markup and no call."""


def read(*texts: str, spec: OutputParserSpec = SPEC, mode: ToolCallMode = "from trigger") -> list[OutputPart]:
    parser = build_parser(spec, mode)
    assert parser is not None
    return parse(parser, *texts)


def grammar_of(tools: ToolOptions | None, answer_format: JsonSchemaFormat | None = None) -> str:
    markup = None if tools is None else MARKUP
    grammar = build_grammar(answer_format, tools, markup, SPECIAL.get, [OTHER], element=TO_ALL).text
    assert grammar is not None
    return grammar


@pytest.mark.parametrize("choice", ["auto", "required", "named"])
@settings(max_examples=12)
@given(
    st.booleans(), st.booleans(), st.sampled_from(["", "all\n", "all\nSo >>>", "all\n>>>get_weather\n"]), st.integers()
)
def test_an_answer_is_text_or_calls_of_the_requests_functions(
    choice: str, several: bool, has_format: bool, prefix: str, seed: int
) -> None:
    name = "get_weather" if choice == "named" else None
    options = msgspec.structs.replace(TOOLS, choice=choice, name=name, parallel=several)
    grammar = grammar_of(options, FORMAT if has_format else None)
    begun = prefix if choice == "auto" and not (has_format and len(prefix) > 4) else ""
    text = generate(grammar, Random(seed), 300, list(begun.encode()))
    if text is None:
        return
    spec = msgspec.structs.replace(SPEC, functions=tuple(tool.name for tool in options.callable_tools))
    parts = read(*text, spec=spec, mode="from trigger" if choice == "auto" else "whole answer")
    assert parts == read(text, spec=spec)
    calls = [part.name for part in parts if isinstance(part, ToolCallStart)]
    content = "".join(part.text for part in parts if isinstance(part, ContentText))
    assert set(calls) <= set(spec.functions or ())
    assert len(calls) <= (10**9 if several and choice != "named" else 1)
    assert choice == "auto" or (calls and not content)
    assert not (has_format and content) or (not calls and validation_errors(content, CITY) == [])


def test_calls_follow_a_text_and_each_other_only_with_the_name_and_a_line_end() -> None:
    grammar = grammar_of(TOOLS)
    for answer in ('all\nHm.>>>get_weather\n{"city": "Oslo"}>>>get\n{}', 'get\n{}>>>python\n{"city": "Rome"}', "all\n"):
        assert allows(grammar, answer)
    assert allows(grammar, [*b"all\na", OTHER, *b"b>>>get\n{}"])
    for answer in (
        "Hm.",
        "all\n>>>get\n{} and more",
        'all\n>>>get_weather\n{"town": "Oslo"}',
        "get\n{}\n>>>get\n{}",
        "all\n>>>python\nprint(1)",
    ):
        assert not allows(grammar, answer)
    one = grammar_of(msgspec.structs.replace(TOOLS, parallel=False))
    assert allows(one, "all\nHm.>>>get\n{}")
    assert not allows(one, "get\n{}>>>get\n{}")


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_text_that_looks_like_markup_is_content_at_every_split(text: str) -> None:
    answer = f"all\n{text}"
    assert allows(grammar_of(TOOLS), answer)
    for position in range(len(answer) + 1):
        assert read(answer[:position], answer[position:]) == [ContentText(text)]
        assert read(answer[:position], answer[position:], spec=PLAIN, mode="none") == [ContentText(text)]
    with_call = f'{answer}>>>get_weather\n{{"city": "Oslo"}}'
    called = tool_call_parts(0, OSLO.name, OSLO.arguments)
    assert read(*with_call) == [ContentText(text.rstrip()), *called] == read(with_call)


def test_text_and_calls_are_read_at_every_split_and_a_cut_shows_no_markup() -> None:
    answer = 'all\n So:\n>>>get_weather\n{"city": "Oslo"}>>>get\n{}'
    calls = [*tool_call_parts(0, OSLO.name, OSLO.arguments), *tool_call_parts(1, "get", "{}")]
    begins = answer.index(">>>get_weather")
    for position in range(len(answer)):
        assert read(answer[:position], answer[position:]) == [ContentText(" So:"), *calls]
        assert read(answer[begins + 3 :][:position], answer[begins + 3 :][position:]) == calls
        cut = "".join(part.text for part in read(*answer[:position]) if isinstance(part, ContentText))
        if position <= 4:
            assert cut == ""
        elif position > answer.index("\n{"):
            assert cut == " So:"
        assert not any(isinstance(part, ContentText) for part in read(*answer[begins + 3 :][:position]))


@pytest.mark.parametrize("answer", ["a", "al", "all", "all\n"])
def test_an_answer_that_ends_before_its_text_is_empty(answer: str) -> None:
    assert read(*answer) == read(*answer, spec=PLAIN, mode="none") == []


def test_an_answer_without_a_recipient_is_text() -> None:
    for text in ("Hi all\n", "ally", " all\nHi"):
        assert read(*text, spec=PLAIN, mode="none") == read(*text, mode="none") == [ContentText(text)]


def test_a_request_without_tools_gets_the_text_alone_also_under_a_format() -> None:
    assert PLAIN.tool_format is None
    assert PLAIN.text_element == TO_ALL
    assert build_grammar(None, None, None, SPECIAL.get, element=TO_ALL).text is None
    grammar = grammar_of(None, FORMAT)
    assert allows(grammar, 'all\n{"city": "Oslo"}')
    assert not allows(grammar, '{"city": "Oslo"}')
    assert read('all\n{"city": "Oslo"}', spec=PLAIN, mode="none") == [ContentText('{"city": "Oslo"}')]


def test_a_function_cannot_be_named_all() -> None:
    with pytest.raises(BadRequest, match="named 'all'"):
        grammar_of(ToolOptions((Tool("all"), Tool("get"))))
    grammar_of(ToolOptions((Tool("all"), Tool("get")), allowed=("get",)))


def test_a_message_that_is_continued_is_text_in_which_a_call_may_begin() -> None:
    messages = (*QUESTION, Message(role="assistant", content="Good"))
    prompt = ChatPrompt(messages=messages, tools=TOOLS, add_generation_prompt=False, continue_final_message=True)
    rendered = TEMPLATE.render(prompt)
    assert rendered.text.endswith(">>>all\nGood")
    assert rendered.parser_spec.text_element is None
    answer = " all\n day.>>>get\n{}"
    expected = [ContentText(" all\n day."), *tool_call_parts(0, "get", "{}")]
    assert read(*answer, spec=rendered.parser_spec) == expected
    grammar = build_grammar(None, TOOLS, MARKUP, SPECIAL.get).text
    assert grammar is not None
    assert allows(grammar, answer)


def test_calls_and_results_come_back_as_they_were_written() -> None:
    messages = (
        *QUESTION,
        Message(role="assistant", content="So:", tool_calls=(OSLO, ToolCall("2", "get", "{}"))),
        Message(role="tool", content="Rain.", tool_call_id="1"),
    )
    first = TEMPLATE.render(ChatPrompt(messages=QUESTION, tools=TOOLS)).text
    text = TEMPLATE.render(ChatPrompt(messages=messages, tools=TOOLS)).text
    assert text.startswith(f'{first}all\nSo:>>>get_weather\n{{"city": "Oslo"}}>>>get\n{{}}<|eot_id|>')
    assert "tool<|end_header_id|>\n\nRain." in text


def test_many_functions_can_be_told_apart() -> None:
    tools = ToolOptions(tuple(Tool(f"function_{number}", parameters=CITY) for number in range(40)))
    grammar = grammar_of(tools)
    assert allows(grammar, 'all\nSo >>>function_:>>>function_37\n{"city": "Oslo"}>>>function_1\n{"city": "Rome"}')
    assert not allows(grammar, tokens_of("all\n>>>function_3\n{}"))
