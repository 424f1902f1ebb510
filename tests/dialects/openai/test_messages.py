from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.request import Message, ToolCall
from dragoman.dialects.http.validation import describe
from dragoman.dialects.openai.messages import ChatMessage, to_core_messages, validate_messages

CALL = {"id": "call_0", "type": "function", "function": {"name": "now", "arguments": '{"zone": "UTC"}'}}


def conversation(*messages: dict[str, Any]) -> tuple[Message, ...]:
    sent = msgspec.convert(list(messages), list[ChatMessage])
    assert list(validate_messages(sent)) == []
    return to_core_messages(sent)


@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(), st.none() | st.text()), min_size=1)
)
def test_a_conversation_keeps_its_roles_texts_and_names(turns: list[tuple[str, str, str | None]]) -> None:
    messages = conversation(*({"role": role, "content": text, "name": name} for role, text, name in turns))
    assert [(message.role, message.content, message.name) for message in messages] == turns


def test_the_developer_role_maps_to_system() -> None:
    assert conversation({"role": "developer", "content": "Be brief."}) == (Message("system", "Be brief."),)


@given(st.lists(st.text()))
def test_text_parts_are_joined_without_separator(texts: list[str]) -> None:
    parts = [{"type": "text", "text": text} for text in texts]
    assert conversation({"role": "user", "content": parts}) == (Message("user", "".join(texts)),)


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}])
def test_an_assistant_message_with_tool_calls_may_have_no_content(content: dict[str, Any]) -> None:
    made = ToolCall("call_0", "now", '{"zone": "UTC"}')
    assert conversation({"role": "assistant", "tool_calls": [CALL], **content}) == (
        Message("assistant", "", tool_calls=(made,)),
    )


def test_a_call_without_arguments_has_none() -> None:
    [message] = conversation({"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "now"}}]})
    assert message.tool_calls == (ToolCall("1", "now", "{}"),)


def test_a_tool_answers_a_call() -> None:
    answer = {"role": "tool", "content": "12:00", "tool_call_id": "call_0"}
    assert conversation(answer) == (Message("tool", "12:00", tool_call_id="call_0"),)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "user"}, "messages[1].content is required"),
        ({"role": "tool", "tool_call_id": "call_0"}, "messages[1].content is required"),
        ({"role": "assistant", "tool_calls": []}, "messages[1].content is required"),
        (
            {"role": "user", "content": "Hi", "tool_calls": [CALL]},
            "messages[1].tool_calls: Only an assistant's message has tool calls",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://localhost/"}}]},
            "messages[1].content[0].type: This model takes text only, got type 'image_url'",
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text"}]},
            "messages[1].content[1].text is required",
        ),
    ],
)
def test_a_message_that_is_not_understood_is_named(message: dict[str, Any], reason: str) -> None:
    sent = msgspec.convert([{"role": "user", "content": "Hi"}, message], list[ChatMessage])
    assert [describe(found.field, found.problem) for found in validate_messages(sent)] == [reason]
