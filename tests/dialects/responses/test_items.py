"""Items become the messages that chat templates expect, and tools of all kinds functions."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.models import ServedModel
from dragoman.core.request import ChatPrompt, GrammarFormat, ImagePart, Message, RegexFormat, TextPart, ToolCall
from dragoman.dialects.responses.codec import DecodedResponse, decode_response
from dragoman.dialects.responses.truncation import UnitTruncationPlan
from tests.support.dialects.decode_contexts import decode_context

READ = {"type": "function", "name": "read"}
WRITE = {"type": "function", "name": "write"}


def decode(**fields: Any) -> DecodedResponse:
    body = {"model": "m", "input": "Hi", **fields}
    return decode_response(json.dumps(body).encode(), decode_context())


def prompt_of(**fields: Any) -> ChatPrompt:
    prompt = decode(**fields).requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt


def messages_of(*items: dict[str, Any], **fields: Any) -> tuple[Message, ...]:
    return prompt_of(input=list(items), **fields).messages


def test_consecutive_items_of_the_assistant_are_one_message() -> None:
    items: list[dict[str, Any]] = [
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c1", "name": "read", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "search", "namespace": "mcp__hub__", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "Rain"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "Sun"}]},
    ]
    calls = (ToolCall("c1", "read", "{}"), ToolCall("c2", "mcp__hub__search", "{}"))
    assert messages_of(*items) == (
        Message(role="user", content="Weather?"),
        Message(role="assistant", content="I look.", tool_calls=calls, reasoning="Hm"),
        Message(role="tool", content="Rain", tool_call_id="c1"),
        Message(role="tool", content="Sun", tool_call_id="c2"),
    )


def test_instructions_and_first_system_messages_are_one_and_later_ones_keep_their_place() -> None:
    messages = messages_of(
        {"role": "developer", "content": "Be brief"},
        {"role": "user", "content": "Hi"},
        {"role": "developer", "content": "Be kind"},
        instructions="You are Bo",
    )
    assert [(message.role, message.text) for message in messages] == [
        ("system", "You are Bo\n\nBe brief"),
        ("user", "Hi"),
        ("system", "Be kind"),
    ]


def test_a_custom_call_is_a_call_with_one_argument() -> None:
    [message, output] = messages_of(
        {"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": 'a"\nb'},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "ok"},
    )
    assert json.loads(message.tool_calls[0].arguments) == {"input": 'a"\nb'}
    assert (output.role, output.tool_call_id) == ("tool", "c")


def test_an_image_is_a_part_of_its_message() -> None:
    [message] = messages_of(
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What is it?"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
            ],
        }
    )
    assert message.content == (TextPart("What is it?"), ImagePart("data:image/png;base64,AA", "low"))


def test_images_of_the_first_system_messages_are_kept_in_the_one_that_they_become() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA"}
    shown = ImagePart("data:image/png;base64,AA")
    [message, _] = messages_of(
        {"role": "system", "content": [image]},
        {"role": "developer", "content": [{"type": "input_text", "text": "It is our logo"}, image]},
        instructions="You are Bo",
    )
    assert message.role == "system"
    assert message.content == (TextPart("You are Bo\n\n"), shown, TextPart("\n\nIt is our logo"), shown)


def test_tools_of_all_kinds_are_functions_and_hosted_ones_are_skipped() -> None:
    decoded = decode(
        tools=[
            READ,
            {"type": "namespace", "name": "mcp__hub__", "tools": [READ]},
            {"type": "namespace", "name": "files", "tools": [READ]},
            {"type": "custom", "name": "patch"},
            {"type": "web_search"},
        ],
        input=[{"type": "additional_tools", "role": "developer", "tools": [WRITE]}, {"role": "user", "content": "Hi"}],
    )
    prompt = decoded.requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.tools is not None
    names = [tool.name for tool in prompt.tools.tools]
    assert names == ["read", "mcp__hub__read", "files__read", "patch", "write"]
    assert decoded.parts.tools.skipped == ["web_search"]
    echoed = [(tool["type"], tool["name"]) for tool in decoded.response.head.tools]
    assert echoed == [
        ("function", "read"),
        ("namespace", "mcp__hub__"),
        ("namespace", "files"),
        ("custom", "patch"),
        ("function", "write"),
    ]


HUB = {"type": "namespace", "name": "mcp__hub__", "tools": [READ]}


@pytest.mark.parametrize("kind", ["additional_tools", "tool_search_output"])
def test_tools_may_be_declared_again(kind: str) -> None:
    """Codex repeats whole namespaces: openai/codex#44710."""
    described = {**READ, "description": "Reads"}
    items = [
        {"type": kind, "tools": [HUB]},
        {"role": "user", "content": "Hi"},
        {"type": kind, "tools": [{**HUB, "tools": [described, WRITE]}]},
    ]
    decoded = decode(tools=[HUB, HUB, READ, READ], input=items)
    prompt = decoded.requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.tools is not None
    # The last declaration of an input counts, in the place of the first.
    assert [(tool.name, tool.description) for tool in prompt.tools.tools] == [
        ("mcp__hub__read", "Reads"),
        ("read", None),
        ("mcp__hub__write", None),
    ]
    assert decoded.skipped == []


def test_allowed_tools_bind_the_answer_and_not_the_prompt() -> None:
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "write"}]}
    tools = prompt_of(tools=[READ, WRITE], tool_choice=choice).tools
    assert tools is not None
    assert [tool.name for tool in tools.tools] == ["read", "write"]
    assert ([tool.name for tool in tools.callable_tools], tools.choice) == (["write"], "required")


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"type": "grammar", "syntax": "regex", "definition": "[a-z]+"}, RegexFormat("[a-z]+")),
        ({"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}, GrammarFormat('start: "a"')),
        ({"type": "text"}, None),
    ],
)
def test_the_input_of_a_custom_tool_is_bound_as_it_says(sent: dict[str, Any], expected: object) -> None:
    tools = prompt_of(tools=[{"type": "custom", "name": "patch", "format": sent}]).tools
    assert tools is not None
    assert tools.tools[0].text_format == expected


@pytest.mark.parametrize(("takes_verbosity", "passed_on"), [(True, "low"), (False, None)])
def test_a_verbosity_is_passed_on_to_models_that_take_it(takes_verbosity: bool, passed_on: str | None) -> None:
    body = json.dumps({"model": "m", "input": "Hi", "text": {"verbosity": "low"}}).encode()
    served = ServedModel(id="m", aliases=(), context_length=None, takes_verbosity=takes_verbosity)
    decoded = decode_response(body, decode_context([served]))
    restored = decode_response(body, decode_context(None, **decoded.extra_arguments))
    for each in (decoded, restored):
        prompt = each.requests[0].prompt
        assert isinstance(prompt, ChatPrompt)
        assert prompt.verbosity == passed_on


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tools": [READ, {**READ, "description": "Reads"}]}, "'read' is there twice"),
        ({"tools": [READ, {"type": "custom", "name": "read"}]}, "'read' is there twice"),
        ({"tool_choice": "required"}, "needs tools to choose from"),
        ({"tools": [READ], "tool_choice": {"type": "function", "name": "no"}}, "None of the tools is called 'no'"),
        ({"tools": [{"type": "custom", "name": "p", "format": {"type": "grammar"}}]}, "needs a syntax"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, r"text\.format\.schema"),
        ({"background": True, "store": False}, "background needs store"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt is not supported"),
        ({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "compaction"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input_file"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://x.example/a.png"}]}]},
            "data: URLs",
        ),
        (
            {"input": [{"role": "assistant", "content": [{"type": "input_image", "image_url": "data:image/png;,"}]}]},
            r"input\[0\]\.content\[0\]: an assistant's message takes no images",
        ),
        ({"input": [{"role": "robot", "content": "Hi"}]}, r"input\[0\]\.role"),
        ({"input": [{"type": "function_call", "name": "f"}]}, r"input\[0\]\.call_id"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    body = json.dumps({"model": "m", "input": "Hi", **fields}).encode()
    with pytest.raises(BadRequest, match=words):
        decode_response(body, decode_context([]))


ITEMS = st.sampled_from(
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes"},
        {"role": "system", "content": "Be brief"},
        {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "Hm"}]},
        {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "another server's"},
        {"type": "function_call", "call_id": "c", "name": "read", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "Rain"},
        {"type": "custom_tool_call", "call_id": "d", "name": "patch", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "d", "output": [{"type": "input_text", "text": "ok"}]},
        {"type": "web_search_call", "id": "ws"},
        {"type": "from_the_future"},
    ]
)


@given(items=st.lists(ITEMS, max_size=12))
def test_any_sequence_of_items_is_a_conversation_that_templates_accept(items: list[dict[str, Any]]) -> None:
    messages = messages_of(*items)
    assert any(message.role != "system" for message in messages)
    for before, after in itertools.pairwise(messages):
        assert (before.role, after.role) != ("assistant", "assistant")
    assert all(message.text or message.tool_calls for message in messages if message.role == "assistant")
    calls = sum(item.get("type") in ("function_call", "custom_tool_call") for item in items)
    assert sum(len(message.tool_calls) for message in messages) == calls


@given(items=st.lists(ITEMS, max_size=12))
def test_what_is_dropped_from_a_long_input_keeps_calls_with_their_results(items: list[dict[str, Any]]) -> None:
    prompt = prompt_of(input=items, instructions="You are Bo")
    plan = UnitTruncationPlan(prompt)
    for count in plan.drop_counts:
        kept = plan.drop_first(count).messages
        assert kept[-1] == prompt.messages[-1] or kept[-1].role == "system"
        assert [message for message in kept if message.role == "system"] == [
            message for message in prompt.messages if message.role == "system"
        ]
        rest = [message for message in kept if message.role != "system"]
        all_turns = [message for message in prompt.messages if message.role != "system"]
        assert rest == all_turns[len(all_turns) - len(rest) :]
        if count:
            assert rest[0].role != "tool"
