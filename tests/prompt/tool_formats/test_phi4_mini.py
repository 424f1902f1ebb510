"""Phi-4 mini's own template reads the functions of a system message, and leaves calls out."""

from dragoman.core.request import ChatPrompt, Message, Tool, ToolCall, ToolOptions
from dragoman.prompt.sandbox import to_json
from dragoman.prompt.template import ChatTemplate
from dragoman.prompt.tool_formats.format import tool_fields, write_calls
from dragoman.prompt.tool_formats.phi4_mini import MARKUP

SOURCE = """
{%- for message in messages %}
    {{- '<|' + message.role + '|>' + message.content }}
    {%- if message.role == 'system' and 'tools' in message and message.tools is not none %}
        {{- '<|tool|>' + message.tools + '<|/tool|>' }}
    {%- endif %}
    {{- '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""

TEMPLATE = ChatTemplate(SOURCE, bos="", eos="")
TOOLS = ToolOptions((Tool("get_weather", "The weather.", {"type": "object"}), Tool("get_time")))
FUNCTIONS = to_json([tool_fields(tool)["function"] for tool in TOOLS.tools])
QUESTION = Message(role="user", content="Well?")


def test_functions_are_a_part_of_the_system_message_as_the_template_writes_them() -> None:
    assert TEMPLATE.tool_format == "phi4_mini"
    end = "<|user|>Well?<|end|><|assistant|>"
    text = TEMPLATE.render(ChatPrompt(messages=(QUESTION,), tools=TOOLS)).text
    assert text == f"<|system|><|tool|>{FUNCTIONS}<|/tool|><|end|>{end}"
    messages = (Message(role="system", content="Be brief."), QUESTION)
    text = TEMPLATE.render(ChatPrompt(messages=messages, tools=TOOLS)).text
    assert text == f"<|system|>Be brief.<|tool|>{FUNCTIONS}<|/tool|><|end|>{end}"
    assert TEMPLATE.render(ChatPrompt(messages=messages)).text == f"<|system|>Be brief.<|end|>{end}"


def test_calls_and_results_come_back() -> None:
    calls = (ToolCall("1", "get_weather", '{"city": "Oslo"}'), ToolCall("2", "get_time", "{}"))
    messages = (
        QUESTION,
        Message(role="assistant", content="", tool_calls=calls),
        Message(role="tool", content="Rain.", tool_call_id="1"),
    )
    first = TEMPLATE.render(ChatPrompt(messages=(QUESTION,), tools=TOOLS)).text
    text = TEMPLATE.render(ChatPrompt(messages=messages, tools=TOOLS)).text
    assert text == f"{first}{write_calls(MARKUP, calls)}<|end|><|tool|>Rain.<|end|><|assistant|>"


def test_a_format_that_is_set_gets_the_functions_in_its_own_words() -> None:
    other = ChatTemplate(SOURCE, bos="", eos="", tool_format="hermes")
    text = other.render(ChatPrompt(messages=(QUESTION,), tools=TOOLS)).text
    assert "<|tool|>" not in text
    assert "<tools>" in text
