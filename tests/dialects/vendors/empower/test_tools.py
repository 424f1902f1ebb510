"""Tools of a chat request."""

import json
from typing import Any

import pytest

from dragoman.core.events import Event, Finished, ToolCallDelta, Usage
from dragoman.core.request import ChatPrompt, Message, Tool, ToolCall, ToolOptions
from tests.support.dialects.empower_requests import HELLO, HI, WEATHER, chat, refusal, request

TOOLS = (Tool("get_weather"),)


@pytest.mark.parametrize("choice", ["none", "auto"])
def test_without_tools_the_choice_may_be_none_or_auto(choice: str) -> None:
    assert chat(tools=[], tool_choice=choice).requests == chat().requests


@pytest.mark.parametrize(
    ("choice", "use"),
    [
        (None, ToolOptions(TOOLS)),
        ("auto", ToolOptions(TOOLS)),
        ("none", None),
        ("any", ToolOptions(TOOLS, "required")),
        ("required", ToolOptions(TOOLS, "required")),
        ({"type": "function", "function": {"name": "get_weather"}}, ToolOptions(TOOLS, "named", "get_weather")),
    ],
)
def test_tools_reach_the_engine_and_any_is_required(choice: object, use: ToolOptions | None) -> None:
    assert request(tools=[WEATHER], tool_choice=choice).prompt == ChatPrompt(messages=HI.messages, tools=use)


def test_every_prompt_has_the_same_tools() -> None:
    requests = chat(messages=["one", "two"], tools=[WEATHER]).requests
    assert [sent.prompt for sent in requests] == [
        ChatPrompt(messages=(Message(role="user", content=text),), tools=ToolOptions(TOOLS)) for text in ("one", "two")
    ]


def test_tool_calls_and_their_results_reach_the_model() -> None:
    call = {"id": "call_0", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    turns = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "Rain", "tool_call_id": "call_0"}]
    assert request(messages=turns).prompt == ChatPrompt(
        messages=(
            Message(role="assistant", content="", tool_calls=(ToolCall("call_0", "get_weather", "{}"),)),
            Message(role="tool", content="Rain", tool_call_id="call_0"),
        )
    )


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"tool_choice": "any"}, "tool_choice 'required' needs tools to choose from", "tool_choice"),
        (
            {"tools": [WEATHER] * 2},
            "'tools[1].function.name': Names of tools must be unique, 'get_weather' is there twice",
            "tools",
        ),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "now"}}},
            "'tool_choice.function.name': None of the tools is called 'now'",
            "tool_choice",
        ),
    ],
)
def test_tools_that_do_not_fit_together_are_rejected(fields: dict[str, Any], message: str, param: str) -> None:
    assert refusal(HELLO | fields) == (message, param, "invalid_value")


def test_a_tool_call_has_its_name_in_one_chunk_and_its_arguments_in_those_that_follow() -> None:
    call = chat(stream=True, tools=[WEATHER])
    events: list[Event] = [
        ToolCallDelta(index=0, call_index=0, arguments='{"city":', token_ids=[1], id="call_0", name="get_weather"),
        ToolCallDelta(index=0, call_index=0, arguments='"Oslo"}', token_ids=[2]),
        Finished(0, "tool_calls"),
        Usage(1, 3, 0),
    ]
    chunks = [json.loads(sent.data) for event in events for sent in call.builder.feed(event)]
    function = {"name": "get_weather", "arguments": ""}
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"tool_calls": [{"index": 0, "id": "call_0", "type": "function", "function": function}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]},
        {},
    ]
    [choice] = json.loads(call.builder.build())["choices"]
    function = {"name": "get_weather", "arguments": '{"city":"Oslo"}'}
    assert choice == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "annotations": [],
            "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
        },
        "finish_reason": "tool_calls",
        "logprobs": None,
    }


@pytest.mark.parametrize(
    ("field", "wrong", "message", "code"),
    [
        ("tools", {}, "'tools' must be an array", "invalid_type"),
        ("tools", [5], "'tools[0]' must be an object", "invalid_type"),
        ("tools", [WEATHER] * 129, "'tools' must have at most 128 items, got 129", "invalid_value"),
        ("tool_choice", 5, "'tool_choice' must be a string or an object", "invalid_type"),
        (
            "tool_choice",
            "some",
            "'tool_choice' must be one of any, auto, none, required, got 'some'",
            "invalid_value",
        ),
        ("tool_choice", {"type": "tool"}, "'tool_choice.type' must be one of function, got 'tool'", "invalid_value"),
        (
            "tool_choice",
            {"type": "function", "function": {}},
            "Missing required parameter: 'tool_choice.function.name'",
            "missing_required_parameter",
        ),
        ("stream_options", True, "'stream_options' must be an object", "invalid_type"),
        (
            "stream_options",
            {"include_usage": 1},
            "'stream_options.include_usage' must be a boolean",
            "invalid_type",
        ),
    ],
)
def test_tools_and_stream_options_have_their_shapes(field: str, wrong: object, message: str, code: str) -> None:
    assert refusal(HELLO | {field: wrong}) == (message, field, code)
