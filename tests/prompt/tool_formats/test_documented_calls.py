"""Calls written by hand are read, in the formats that llama.cpp does not read.

The forms follow what the publishers of the models describe, as far as it was known when they were written.
"""

import pytest

from dragoman.output.markup import ToolFormatName
from dragoman.output.tool_call_parser import ToolCallParser
from dragoman.prompt.tool_formats import FORMATS
from tests.support.answers import ReadCall, answer_of
from tests.support.output_parts import parse

OSLO = ReadCall("get_weather", {"city": "Oslo", "days": 3})
TIME = ReadCall("get_time", {})


@pytest.mark.parametrize(
    ("name", "answer", "calls"),
    [
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
            '{"name": "get_weather", "parameters": {"city": "Oslo", "days": 3}}; '
            '{"name": "get_time", "parameters": {}}',
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
    ],
)
def test_a_documented_answer_is_read(name: ToolFormatName, answer: str, calls: tuple[ReadCall, ...]) -> None:
    read = answer_of(parse(ToolCallParser(FORMATS[name].syntax), answer))
    assert read.calls == calls
    assert read.content == ""
