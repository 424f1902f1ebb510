"""Whether the prompt after a tool's result begins with what was computed before it, so that its prefix is shared."""

import re
from pathlib import Path

import msgspec

from dragoman.core.request import ChatPrompt, Message, ReasoningEffort, Tool, ToolCall, ToolOptions
from dragoman.output.parts import OutputPart, ReasoningText
from dragoman.prompt.output_parser import build_parser
from dragoman.prompt.template import ChatTemplate
from tests.support.chat_templates import OPEN_MODELS, open_model_template, requires_open_models
from tests.support.output_parts import parse, tool_call_parts

QUESTION = Message(role="user", content="Well?")
TOOLS = ToolOptions((Tool("get_weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}}),))
ARGUMENTS = '{"city": "Rome"}'
THOUGHTS = "I see."
RESULT = "Rain."


@requires_open_models
def test_the_documentation_names_the_templates_whose_answers_are_computed_again() -> None:
    documentation = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    [section] = re.findall(r"## Prefixes over tool calls\n(.*?)\n## ", documentation, re.DOTALL)
    templates = {
        path.stem: ChatTemplate(open_model_template(path.stem), bos="", eos="") for path in OPEN_MODELS.glob("*.jinja")
    }
    changing = {
        name for name, template in templates.items() if template.tool_format != "generic" and not continues(template)
    }
    assert set(re.findall("`([^`]+)`", section)) == changing


def continues(template: ChatTemplate) -> bool:
    """Whether the next prompt repeats the last one and an answer with a call, with thoughts or without."""
    return repeats(template, None, None) or repeats(template, THOUGHTS, "high")


def repeats(template: ChatTemplate, thoughts: str | None, effort: ReasoningEffort | None) -> bool:
    prompt = ChatPrompt(messages=(QUESTION,), tools=TOOLS, reasoning_effort=effort)
    first = template.render(prompt)
    after_one, after_other = (next_prompt(template, prompt, thoughts, call_id) for call_id in ("call_1", "call_2"))
    # A model does not know the id that the client gives back.
    answer, is_found, _ = after_one.partition(RESULT)
    if not (is_found and after_one.startswith(first.text) and answer == after_other.partition(RESULT)[0]):
        return False
    parser = build_parser(first.parser_spec, strings={"get_weather": {"city": False}})
    assert parser is not None
    wanted: list[OutputPart] = [ReasoningText(thoughts)] if thoughts is not None else []
    wanted += tool_call_parts(0, "get_weather", ARGUMENTS)
    return parse(parser, answer[len(first.text) :])[: len(wanted)] == wanted


def next_prompt(template: ChatTemplate, prompt: ChatPrompt, thoughts: str | None, call_id: str) -> str:
    call = ToolCall(call_id, "get_weather", ARGUMENTS)
    answer = Message(role="assistant", content="", tool_calls=(call,), reasoning=thoughts)
    result = Message(role="tool", content=RESULT, tool_call_id=call_id)
    return template.render(msgspec.structs.replace(prompt, messages=(QUESTION, answer, result))).text
