"""Tools, formats and messages of a chat request."""

from typing import Any

import pytest

from dragoman.core.request import (
    ChatPrompt,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    Tool,
    ToolCall,
    ToolOptions,
)
from tests.support.dialects.arcee_requests import WEATHER, entry, refusal, request, user

CLOCK = {"type": "function", "function": {"name": "now", "description": "The time", "strict": True}}
USE = (Tool("get_weather", None, {"type": "object"}), Tool("now", "The time", None, True))
NAME_PATTERN = r"String should match pattern '^[A-Za-z0-9_-]{1,64}$(?!\n)'"


@pytest.mark.parametrize(
    ("fields", "use"),
    [
        ({}, ToolOptions(USE)),
        ({"tool_choice": None}, ToolOptions(USE)),
        ({"tool_choice": "auto"}, ToolOptions(USE)),
        ({"tool_choice": "none"}, None),
        ({"tool_choice": "required"}, ToolOptions(USE, "required")),
        ({"tool_choice": {"type": "function", "function": {"name": "now"}}}, ToolOptions(USE, "named", "now")),
        ({"parallel_tool_calls": False}, ToolOptions(USE, parallel=False)),
    ],
)
def test_tools_reach_the_engine_with_their_choice(fields: dict[str, object], use: ToolOptions | None) -> None:
    prompt = request(tools=[WEATHER, CLOCK], **fields).prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.tools == use


@pytest.mark.parametrize(
    ("fields", "message", "kind", "place"),
    [
        (
            {"tools": [WEATHER, CLOCK, WEATHER]},
            "Names of tools must be unique, 'get_weather' is there twice",
            "value_error",
            ["tools", 2, "function", "name"],
        ),
        ({"tool_choice": "required"}, "tool_choice 'required' needs tools to choose from", "value_error", None),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "now"}}},
            "None of the tools is called 'now'",
            "value_error",
            ["tool_choice", "function", "name"],
        ),
        (
            {"tool_choice": {"type": "tool", "function": {"name": "now"}}},
            "Input should be one of function",
            "enum",
            ["tool_choice", "type"],
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "two words"}}]},
            NAME_PATTERN,
            "string_pattern_mismatch",
            ["tools", 0, "function", "name"],
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a" * 65}}},
            NAME_PATTERN,
            "string_pattern_mismatch",
            ["response_format", "json_schema", "name"],
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": [{"minimum": -(2**64)}]}}}]},
            "The integers of a schema must fit into 64 bits",
            "value_error",
            ["tools", 0, "function", "parameters"],
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"maximum": 2**64}}}},
            "The integers of a schema must fit into 64 bits",
            "value_error",
            ["response_format", "json_schema", "schema"],
        ),
        ({"top_logprobs": 5}, "top_logprobs needs logprobs to be true", "value_error", None),
        (
            {"response_format": {"type": "xml"}},
            "Input should be one of json_object, json_schema, text",
            "enum",
            ["response_format", "type"],
        ),
    ],
)
def test_what_does_not_fit_together_returns_422(
    fields: dict[str, Any], message: str, kind: str, place: list[str | int] | None
) -> None:
    assert refusal(**fields) == (422, [entry(message, kind, *(place or fields))])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tools": [5]}, "'tools[0]' must be an object"),
        ({"tools": [{"type": "function"}]}, "'tools[0].function' is required"),
        ({"tools": [{"type": "function", "function": {}}]}, "'tools[0].function.name' is required"),
        ({"tool_choice": {"type": "function"}}, "'tool_choice.function' is required"),
        ({"response_format": {"type": "json_schema"}}, "'response_format.json_schema' is required"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "'response_format.json_schema.name'"),
    ],
)
def test_tools_and_formats_of_another_shape_return_400(fields: dict[str, object], message: str) -> None:
    status, text = refusal(**fields)
    assert status == 400
    assert message in text


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, JsonObjectFormat()),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, JsonSchemaFormat()),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": None}}, JsonSchemaFormat()),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array"}, "strict": True}},
            JsonSchemaFormat({"type": "array"}, strict=True),
        ),
    ],
)
def test_a_format_reaches_the_engine(sent: object, expected: object) -> None:
    assert request(response_format=sent).response_format == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, None), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 20}, 20), ({"top_logprobs": 0}, None)],
)
def test_log_probabilities_are_requested(fields: dict[str, object], expected: int | None) -> None:
    assert request(**fields).logprobs == expected


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high"])
def test_the_effort_reaches_the_engine(effort: str) -> None:
    prompt = request(reasoning_effort=effort).prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.reasoning_effort == effort


def test_tool_calls_and_their_results_reach_the_model() -> None:
    call = {"id": "call_0", "type": "function", "function": {"name": "now", "arguments": '{"zone":"UTC"}'}}
    turns = [
        user("When?"),
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "I must look"},
        {"role": "tool", "content": "12:00", "tool_call_id": "call_0", "name": "now"},
    ]
    assert request(messages=turns).prompt == ChatPrompt(
        messages=(
            Message(role="user", content="When?"),
            Message(
                role="assistant",
                content="",
                tool_calls=(ToolCall("call_0", "now", '{"zone":"UTC"}'),),
                reasoning="I must look",
            ),
            Message(role="tool", content="12:00", name="now", tool_call_id="call_0"),
        )
    )


def test_messages_reach_the_model_unchanged() -> None:
    turns: list[dict[str, object]] = [
        {"role": "system", "content": "Be brief"},
        {"role": "developer", "content": ""},
        user([{"type": "text", "text": "H"}, {"type": "text", "text": "i"}], name="Ann"),
        {"role": "assistant", "content": "Hello", "reasoning": "A greeting", "tool_calls": []},
    ]
    assert request(messages=turns).prompt == ChatPrompt(
        messages=(
            Message(role="system", content="Be brief"),
            Message(role="system", content=""),
            Message(role="user", content="Hi", name="Ann"),
            Message(role="assistant", content="Hello", reasoning="A greeting"),
        )
    )


@pytest.mark.parametrize(
    ("message", "text", "kind", "place"),
    [
        (
            {"role": "bot", "content": "Hi"},
            "Input should be one of assistant, developer, system, tool, user",
            "enum",
            ["role"],
        ),
        (
            {"role": "tool", "content": "5", "tool_call_id": "call_0"},
            "Input should be the id of a tool call in an earlier assistant message",
            "value_error",
            ["tool_call_id"],
        ),
        (
            {"role": "tool", "content": "5"},
            "Input should be the id of a tool call in an earlier assistant message",
            "value_error",
            ["tool_call_id"],
        ),
        (
            user("Hi", tool_calls=[{"id": "call_0", "function": {"name": "now"}}]),
            "Only an assistant's message has tool calls",
            "value_error",
            ["tool_calls"],
        ),
        (
            user([{"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": "http://a/b.png"}}]),
            "This model takes text only, got type 'image_url'",
            "value_error",
            ["content", 1, "type"],
        ),
    ],
)
def test_an_invalid_message_is_reported_with_its_path(
    message: object, text: str, kind: str, place: list[str | int]
) -> None:
    assert refusal(messages=[user("Hi"), message]) == (422, [entry(text, kind, "messages", 1, *place)])
