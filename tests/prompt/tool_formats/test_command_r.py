"""Command R answers in text after a call of directly-answer, which a client never sees."""

from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.request import ChatPrompt, JsonSchemaFormat, Message, Tool, ToolCall, ToolOptions
from dragoman.output.grammar import build_grammar
from dragoman.output.parts import ContentText, OutputPart, ToolCallStart
from dragoman.prompt.output_parser import OutputParserSpec, build_parser
from dragoman.prompt.template import ChatTemplate
from dragoman.prompt.tool_formats.command_r import DIRECT_ANSWER, MARKUP
from dragoman.prompt.tool_formats.format import write_calls
from tests.support.chat_templates import COMMAND_R, open_chat_template, requires_open_models
from tests.support.grammars import allows, generate, validation_errors
from tests.support.output_parts import parse, tool_call_parts

SPEC = OutputParserSpec("command_r", text_element=DIRECT_ANSWER)
TEMPLATE = ChatTemplate(COMMAND_R, bos="", eos="")
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 5}}, "required": ["city"]}
TOOLS = ToolOptions((Tool("get_weather", parameters=CITY), Tool("get-time")))
QUESTION = (Message(role="user", content="Well?"),)
CALL = ToolCall("call_1", "get_weather", '{"city": "Oslo"}')
FORMAT = JsonSchemaFormat({**CITY, "additionalProperties": False}, strict=True)


def read(*texts: str, spec: OutputParserSpec = SPEC) -> list[OutputPart]:
    parser = build_parser(spec, "none" if spec.tool_format is None else "from trigger")
    assert parser is not None
    return parse(parser, *texts)


def spec_of(prompt: ChatPrompt) -> OutputParserSpec:
    return TEMPLATE.render(prompt).parser_spec


@pytest.mark.parametrize("choice", ["auto", "required", "named"])
@settings(max_examples=15)
@given(several=st.booleans(), has_format=st.booleans(), seed=st.integers(0, 2**32))
def test_an_answer_is_calls_of_the_requests_functions_or_a_text(
    choice: str, several: bool, has_format: bool, seed: int
) -> None:
    name = "get_weather" if choice == "named" else None
    options = msgspec.structs.replace(TOOLS, choice=choice, name=name, parallel=several)
    answer_format = FORMAT if has_format else None
    grammar = build_grammar(answer_format, options, MARKUP, lambda _: None, element=DIRECT_ANSWER)
    assert grammar.text is not None
    random = Random(seed)
    prefix = DIRECT_ANSWER.opening if choice == "auto" and random.random() < 0.5 else ""
    text = generate(grammar.text, random, 500, list(prefix.encode()))
    if text is None:
        return
    parts = read(*text)
    calls = [part.name for part in parts if isinstance(part, ToolCallStart)]
    content = "".join(part.text for part in parts if isinstance(part, ContentText))
    assert bool(content) is not bool(calls)
    assert set(calls) <= {"get_weather", "get-time"}
    assert len(calls) <= (10**9 if several and choice != "named" else 1)
    assert choice == "auto" or calls
    assert not (content and has_format) or validation_errors(content, FORMAT.schema) == []


def test_a_text_that_was_announced_is_not_empty() -> None:
    grammar = build_grammar(None, TOOLS, MARKUP, lambda _: None, element=DIRECT_ANSWER).text
    assert grammar is not None
    assert not allows(grammar, DIRECT_ANSWER.opening)
    assert not allows(grammar, f"{DIRECT_ANSWER.opening}\n")
    assert not allows(grammar, "Yes.")
    assert allows(grammar, f"{DIRECT_ANSWER.opening}Yes.\nAction:")


@pytest.mark.parametrize(
    "opening",
    [
        DIRECT_ANSWER.opening,
        'Action: ```json\n[\n    {\n        "tool_name": "directly-answer",\n        "parameters": {}\n    }\n]```\n\n',
        '\nAction:\n\n```json\n[{"tool_name": "directly-answer", "parameters": {}}]\n```\n',
    ],
)
@pytest.mark.parametrize("tool_format", ["command_r", None])
def test_what_announces_a_text_is_dropped_at_every_split(opening: str, tool_format: str | None) -> None:
    spec = msgspec.structs.replace(SPEC, tool_format=tool_format)
    answer = f"{opening}Yes.\n\nAction:"
    for position in range(len(answer)):
        assert read(answer[:position], answer[position:], spec=spec) == [ContentText("Yes.\n\nAction:")]
    for end in range(opening.index('answer"') + len('answer"'), len(opening)):
        assert read(*opening[:end], spec=spec) == []


def test_calls_are_read_at_every_split_and_an_answer_cut_before_them_shows_no_markup() -> None:
    answer = write_calls(MARKUP, [CALL, CALL])
    expected = [*tool_call_parts(0, CALL.name, CALL.arguments), *tool_call_parts(1, CALL.name, CALL.arguments)]
    for position in range(len(answer)):
        assert read(answer[:position], answer[position:]) == expected
        assert not any(isinstance(part, ContentText) for part in read(*answer[:position]))


def test_a_function_of_a_request_that_has_this_name_is_called() -> None:
    own = ToolOptions((*TOOLS.tools, Tool("directly-answer")))
    assert spec_of(ChatPrompt(messages=QUESTION, tools=TOOLS)).text_element == DIRECT_ANSWER
    spec = spec_of(ChatPrompt(messages=QUESTION, tools=own))
    assert spec.text_element is None
    assert read(DIRECT_ANSWER.opening.rstrip(), spec=spec) == tool_call_parts(0, "directly-answer", "{}")


def test_a_message_that_is_continued_is_text_already() -> None:
    messages = (*QUESTION, Message(role="assistant", content="Good"))
    prompt = ChatPrompt(messages=messages, tools=TOOLS, add_generation_prompt=False, continue_final_message=True)
    spec = spec_of(prompt)
    assert spec.text_element is None
    assert read(" day.", spec=spec) == [ContentText(" day.")]


@requires_open_models
def test_schemas_that_the_template_fails_with_are_completed() -> None:
    members = {
        "a": {"type": "string", "description": "A city."},
        "b": {"type": ["integer", "null"], "description": None},
        "c": {"type": "object", "properties": {}, "additionalProperties": False},
        "d": {"type": "object", "additionalProperties": {"type": "number"}},
        "e": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "f": {"type": ["string", "boolean"]},
        "g": True,
    }
    tools = ToolOptions((Tool("f", parameters={"type": "object", "properties": members, "required": [*members]}),))
    template = open_chat_template("CohereForAI-c4ai-command-r-plus-tool_use")
    text = template.render(ChatPrompt(messages=QUESTION, tools=tools)).text
    written = "a: str, b: int, c: Dict[str, Any], d: Dict[str, float], e: Any, f: Union[str,bool], g: Any"
    assert f"def f({written}) -> List[Dict]:" in text
    assert "a (str): A city.\n        b (int): \n" in text
    assert (
        "get_time() -> List"
        in template.render(ChatPrompt(messages=QUESTION, tools=ToolOptions((Tool("get_time"),)))).text
    )
