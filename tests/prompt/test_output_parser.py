import msgspec
import pytest

from dragoman.core.request import ChatPrompt, Message, Tool, ToolOptions
from dragoman.output.marked_text_parser import TextMarkers
from dragoman.output.parts import ContentText, ReasoningText
from dragoman.output.reasoning_parser import ReasoningSpec
from dragoman.prompt.output_parser import OutputParserSpec, build_parser
from dragoman.prompt.template import ChatTemplate
from tests.support.output_parts import parse, tool_call_parts

REASONING = ReasoningSpec("<think>", "</think>", opened_by_prompt=True, budget_tokens=128)
ANSWER = 'Hm.</think><tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


def test_an_answer_that_can_only_be_text_needs_no_parser() -> None:
    assert build_parser(OutputParserSpec()) is None


def test_reasoning_and_calls_are_parsed_where_the_spec_has_them() -> None:
    both = build_parser(OutputParserSpec("hermes", REASONING))
    only_reasoning = build_parser(OutputParserSpec(None, REASONING))
    only_calls = build_parser(OutputParserSpec("hermes", None))
    assert both is not None
    assert only_reasoning is not None
    assert only_calls is not None
    assert parse(both, ANSWER) == [ReasoningText("Hm."), *tool_call_parts(0, "f", "{}")]
    assert parse(only_reasoning, ANSWER) == [ReasoningText("Hm."), ContentText(ANSWER.removeprefix("Hm.</think>"))]
    assert parse(only_calls, ANSWER) == [ContentText("Hm.</think>"), *tool_call_parts(0, "f", "{}")]


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        ("<|START_RESPONSE|>{{ messages }}<|END_RESPONSE|>", "<|START_RESPONSE|>So.<|END_RESPONSE|>"),
        ("<|START_TEXT|>{{ messages }}<|END_TEXT|>", "<|START_TEXT|>So.<|END_TEXT|>"),
        ("Answer between <response></response>. {{ messages }}", "<response>So.</response>"),
    ],
)
@pytest.mark.parametrize("has_tools", [False, True])
def test_markers_that_a_template_shows_around_text_are_dropped(source: str, answer: str, has_tools: bool) -> None:
    tools = ToolOptions((Tool("f"),)) if has_tools else None
    prompt = ChatPrompt(messages=(Message(role="user", content="Well?"),), tools=tools)
    spec = ChatTemplate(source, bos="", eos="").render(prompt).parser_spec
    parser = build_parser(spec)
    assert parser is not None
    assert parse(parser, *answer) == [ContentText("So.")]


def test_a_parser_spec_survives_serialization() -> None:
    markers = TextMarkers("<answer>", "</answer>")
    for spec in (OutputParserSpec(), OutputParserSpec("mistral", REASONING), OutputParserSpec(text_markers=markers)):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=OutputParserSpec) == spec
