"""Calls written by hand are read, in the formats that llama.cpp does not read, or not several of them.

The forms follow what the publishers of the models describe, as far as it was known when they were written.
"""

import re
from pathlib import Path

import pytest

from dragoman.output.markup import ToolFormatName
from dragoman.output.tool_call_parser import ToolCallParser
from dragoman.prompt.tool_formats import FORMATS
from tests.support.answers import ReadCall, answer_of
from tests.support.output_parts import parse

OSLO = ReadCall("get_weather", {"city": "Oslo", "days": 3})
TIME = ReadCall("get_time", {})


CASES: list[tuple[ToolFormatName, str, tuple[ReadCall, ...]]] = [
    ("mistral", '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}]', (OSLO,)),
    (
        "mistral",
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}, '
        '{"name": "get_time", "arguments": {}}]',
        (OSLO, TIME),
    ),
    (
        "mistral_call_id",
        '[TOOL_CALLS]get_weather[CALL_ID]aB3dE6gH9[ARGS]{"city": "Oslo", "days": 3}'
        "[TOOL_CALLS]get_time[CALL_ID]kL2mN5pQ8[ARGS]{}",
        (OSLO, TIME),
    ),
    ("llama3", '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Oslo", "days": 3}}', (OSLO,)),
    (
        "llama3",
        '{"name": "get_weather", "parameters": {"city": "Oslo", "days": 3}}; {"name": "get_time", "parameters": {}}',
        (OSLO, TIME),
    ),
    ("xlam", '[{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}]', (OSLO,)),
    (
        "solar",
        "<|tool_calls|><|tool_call:begin|>aB3dE6gH9<|tool_call:name|>get_weather<|tool_call:args|>"
        '{"city": "Oslo", "days": 3}<|tool_call:end|><|calls|>',
        (OSLO,),
    ),
    (
        "muse_glimmer",
        ' to=get_weather<|message|><atem:function_calls>\n<atem:invoke name="get_weather">\n'
        '<atem:parameter name="city">Oslo</atem:parameter>\n<atem:parameter name="days">3</atem:parameter>\n'
        "</atem:invoke>\n</atem:function_calls><|eom|><|start|>assistant to=get_time<|message|>"
        '<atem:function_calls>\n<atem:invoke name="get_time">\n</atem:invoke>\n</atem:function_calls>',
        (OSLO, TIME),
    ),
    (
        "kimi_k3",
        '<|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|>'
        '<|open|>argument key="city" type="string"<|sep|>Oslo<|close|>argument<|sep|>'
        '<|open|>argument key="days" type="number"<|sep|>3<|close|>argument<|sep|><|close|>call<|sep|>'
        '<|open|>call tool="get_time" index="2"<|sep|><|close|>call<|sep|>'
        "<|close|>tools<|sep|><|close|>message<|sep|>",
        (OSLO, TIME),
    ),
    (
        "command_r7b",
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", '
        '"parameters": {"city": "Oslo", "days": 3}},\n    {"tool_call_id": "1", "tool_name": "get_time", '
        '"parameters": {}}\n]<|END_ACTION|>',
        (OSLO, TIME),
    ),
    (
        "phi4_mini",
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}, '
        '{"name": "get_time", "arguments": {}}]<|/tool_call|>',
        (OSLO, TIME),
    ),
    (
        "tool_calls_list",
        '<tool_calls>[{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}, '
        '{"name": "get_time", "arguments": {}}]</tool_calls>',
        (OSLO, TIME),
    ),
    (
        "tool_calls_lines",
        '<tool_calls>\n{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}\n'
        '{"name": "get_time", "arguments": {}}\n</tool_calls>',
        (OSLO, TIME),
    ),
    (
        "apertus",
        '<|tools_prefix|>[{"get_weather": {"city": "Oslo", "days": 3}}, {"get_time": {}}]<|tools_suffix|>',
        (OSLO, TIME),
    ),
    (
        "minimax_m2",
        '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Oslo</parameter>\n'
        '<parameter name="days">3</parameter>\n</invoke>\n<invoke name="get_time">\n</invoke>\n'
        "</minimax:tool_call>",
        (OSLO, TIME),
    ),
    (
        "command_r",
        'Action: ```json\n[\n    {\n        "tool_name": "get_weather",\n        "parameters": {\n            '
        '"city": "Oslo",\n            "days": 3\n        }\n    },\n    {\n        "tool_name": "get_time",\n'
        '        "parameters": {}\n    }\n]```',
        (OSLO, TIME),
    ),
    (
        "exaone4",
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}</tool_call>\n'
        '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>',
        (OSLO, TIME),
    ),
    ("functionary_v32", '>>>get_weather\n{"city": "Oslo", "days": 3}\n>>>get_time\n{}', (OSLO, TIME)),
    ("pythonic", "[get_weather(city='Oslo', days=3)]", (OSLO,)),
    ("pythonic", '[get_weather(city="Oslo", days=3), get_time()]', (OSLO, TIME)),
    ("pythonic", '<|python_start|>[get_weather(city="Oslo", days=3)]', (OSLO,)),
    ("gemma3", '[get_weather(city="Oslo", days=3), get_time()]', (OSLO, TIME)),
    (
        "functiongemma",
        "<start_function_call>call:get_weather{city:<escape>Oslo<escape>,days:3}<end_function_call>"
        "<start_function_call>call:get_time{}<end_function_call>",
        (OSLO, TIME),
    ),
    (
        "glm4",
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>3</arg_value>\n</tool_call>",
        (OSLO,),
    ),
]


@pytest.mark.parametrize(("name", "answer", "calls"), CASES)
def test_a_documented_answer_is_read(name: ToolFormatName, answer: str, calls: tuple[ReadCall, ...]) -> None:
    read = answer_of(parse(ToolCallParser(FORMATS[name].syntax), answer))
    assert read.calls == calls
    assert read.content == ""


def test_every_format_is_documented_here_or_read_equally_by_llama_cpp() -> None:
    table = (Path(__file__).parents[3] / "docs" / "add-a-tool-format.md").read_text()
    compared = {name for name, equal in re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.MULTILINE) if equal.strip()}
    assert compared | {name for name, _, _ in CASES} == FORMATS.keys() - {"generic"}
