import msgspec

from dragoman.output.parts import ContentText, ReasoningText
from dragoman.output.reasoning_parser import ReasoningSpec
from dragoman.prompt.output_parser import OutputParserSpec, build_parser
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


def test_a_parser_spec_survives_serialization() -> None:
    for spec in (OutputParserSpec(), OutputParserSpec("mistral", REASONING)):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=OutputParserSpec) == spec
