"""MiniMax M3's calls have arguments as elements, whose types only the schema shows."""

import functools
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.request import ChatPrompt, Message, Tool, ToolCall, ToolOptions
from dragoman.output.grammar import build_grammar
from dragoman.output.grammar.build import BuiltGrammar
from dragoman.output.parts import ContentText, OutputPart, ReasoningText, ToolCallArguments
from dragoman.output.tool_call_parser import ToolCallParser
from dragoman.prompt.output_parser import build_parser
from dragoman.prompt.template import ChatTemplate
from dragoman.prompt.tool_formats.format import write_calls
from dragoman.prompt.tool_formats.minimax_m3 import FORMAT, MARKUP
from tests.support.chat_templates import MINIMAX_M3
from tests.support.grammars import OTHER, SPECIAL, allows, tokens_of
from tests.support.output_parts import parse, tool_call_parts

TEMPLATE = ChatTemplate(MINIMAX_M3, bos="", eos="")
PLACE = {"type": "object", "properties": {"city": {"type": "string"}, "lines": {"type": "array"}}}
TOOLS = ToolOptions(
    (
        Tool("get_weather", parameters={"type": "object", "properties": {"place": PLACE, "days": {"type": "integer"}}}),
        Tool("get_time"),
    )
)
QUESTION = (Message(role="user", content="Well?"),)
PROMPT = ChatPrompt(messages=QUESTION, tools=TOOLS)
OSLO = ToolCall("1", "get_weather", '{"place": {"city": "3\\n<b>", "lines": ["a", 1, [true]]}, "days": 3}')
TIME = ToolCall("2", "get_time", "{}")


SPEC = TEMPLATE.render(PROMPT).parser_spec


@functools.cache
def grammar() -> BuiltGrammar:
    return build_grammar(None, TOOLS, MARKUP, SPECIAL.get, [OTHER])


def read(*texts: str) -> list[OutputPart]:
    parser = build_parser(SPEC, "from trigger", grammar().strings)
    assert parser is not None
    return parse(parser, *texts)


@pytest.mark.parametrize(
    ("before", "parts"),
    [
        ("<mm:think>Hm.</mm:think>So:", [ReasoningText("Hm."), ContentText("So:")]),
        ("</mm:think>So:", [ContentText("So:")]),
        ("</mm:think>", []),
        ("", []),
    ],
)
def test_reasoning_text_and_calls_are_read_at_every_split(before: str, parts: list[OutputPart]) -> None:
    answer = before + write_calls(MARKUP, [OSLO, TIME])
    expected = [*parts, *tool_call_parts(0, OSLO.name, OSLO.arguments), *tool_call_parts(1, TIME.name, "{}")]
    assert read(*answer) == expected
    for position in range(len(answer) if parts[1:] else 0):
        assert read(answer[:position], answer[position:]) == expected
        if position > len(before) + len(MARKUP.trigger):
            texts = [part for part in read(*answer[:position]) if isinstance(part, ContentText | ReasoningText)]
            assert texts == parts


def test_an_answer_may_begin_with_reasoning_or_its_end_and_go_on_with_calls() -> None:
    text = grammar().text
    assert text is not None
    calls = tokens_of(write_calls(MARKUP, [OSLO, TIME]))
    for before in ([], [OTHER], [*b"</mm:think>So: ]<]minimax"], [*b"<mm:think>", OTHER, *b"x"]):
        assert allows(text, before)
        assert allows(text, [*before, *calls])
    assert not allows(text, [*calls, *b"!"])
    assert not allows(text, calls[:-1])
    one = build_grammar(None, msgspec.structs.replace(TOOLS, parallel=False), MARKUP, SPECIAL.get).text
    assert one is not None
    assert allows(one, tokens_of(write_calls(MARKUP, [OSLO])))
    assert not allows(one, calls)


def test_calls_come_back_as_they_were_written_and_results_follow_them() -> None:
    messages = (
        *QUESTION,
        Message(role="assistant", content="So:", tool_calls=(OSLO, TIME), reasoning="Hm."),
        Message(role="tool", content="Rain.", tool_call_id="1"),
        Message(role="tool", content="12:00", tool_call_id="2"),
    )
    first = TEMPLATE.render(PROMPT).text
    text = TEMPLATE.render(ChatPrompt(messages=messages, tools=TOOLS)).text
    assert text.startswith(f"{first}<mm:think>Hm.</mm:think>So:{write_calls(MARKUP, [OSLO, TIME])}[e~[\n")
    assert text.index("Rain.") < text.index("12:00")


def test_efforts_open_or_end_the_reasoning() -> None:
    assert TEMPLATE.render(msgspec.structs.replace(PROMPT, reasoning_effort="high")).text.endswith("<mm:think>")
    none = TEMPLATE.render(msgspec.structs.replace(PROMPT, reasoning_effort="none"))
    assert none.text.endswith("</mm:think>")
    assert none.parser_spec.reasoning is None


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from(["]<]minimax[>[", "<a>", "</a>", "<item>", "</item>", "</invoke>", "1", "x", "\n", "tr"]))
)
def test_arguments_that_are_malformed_become_json_at_every_split(pieces: list[str]) -> None:
    answer = f"{MARKUP.section_open}{MARKUP.head('f')}{''.join(pieces)}"
    parts = parse(ToolCallParser(FORMAT.syntax), answer)
    assert parse(ToolCallParser(FORMAT.syntax), *answer) == parts
    arguments = "".join(part.text for part in parts if isinstance(part, ToolCallArguments))
    if any(type(part).__name__ == "ToolCallEnd" for part in parts):
        assert isinstance(json.loads(arguments), dict)
