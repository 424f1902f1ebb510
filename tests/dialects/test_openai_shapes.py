from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.events import Usage
from dragoman.core.request import ChatPrompt, Message, TextPrompt, TokenPrompt
from dragoman.dialects.openai_shapes import (
    MAX_PROMPTS,
    ChatMessage,
    TextCompletionPrompt,
    chat_prompt,
    text_prompts,
    usage_body,
)


def conversation(*messages: dict[str, Any]) -> tuple[Message, ...]:
    prompt = chat_prompt(msgspec.convert(list(messages), list[ChatMessage]))
    assert isinstance(prompt, ChatPrompt)
    return prompt.messages


def refused(*messages: dict[str, Any]) -> str:
    with pytest.raises(BadRequest) as caught:
        conversation(*messages)
    assert caught.value.parameter == "messages"
    return caught.value.message


@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(), st.none() | st.text()), min_size=1)
)
def test_a_conversation_keeps_its_roles_texts_and_names(turns: list[tuple[str, str, str | None]]) -> None:
    messages = conversation(*({"role": role, "content": text, "name": name} for role, text, name in turns))
    assert [(message.role, message.content, message.name) for message in messages] == turns


def test_a_developer_speaks_as_the_system() -> None:
    assert conversation({"role": "developer", "content": "Be brief."}) == (Message("system", "Be brief."),)


@given(st.lists(st.text()))
def test_text_parts_are_joined_without_separator(texts: list[str]) -> None:
    parts = [{"type": "text", "text": text} for text in texts]
    assert conversation({"role": "user", "content": parts}) == (Message("user", "".join(texts)),)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "robot", "content": "Hi"}, "messages[1].role must be one of system, user, assistant, tool"),
        ({"role": "", "content": "Hi"}, "messages[1].role must be one of"),
        ({"role": "User", "content": "Hi"}, "messages[1].role must be one of"),
        ({"role": "user"}, "messages[1].content is missing"),
        ({"role": "user", "content": None}, "messages[1].content is missing"),
        ({"role": "assistant", "content": None}, "messages[1].content is missing"),
        ({"role": "tool", "content": "22 °C"}, "messages[1]: tool calls and tool messages are not supported"),
        (
            {"role": "assistant", "content": "Hi", "tool_calls": [{}]},
            "messages[1]: tool calls and tool messages are not supported",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://localhost/"}}]},
            "messages[1].content[0] must be a text part; this model takes text only, got type 'image_url'",
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text"}]},
            "messages[1].content[1] must be a text part",
        ),
    ],
)
def test_a_message_that_is_not_understood_is_named(message: dict[str, Any], reason: str) -> None:
    assert refused({"role": "user", "content": "Hi"}, message).startswith(reason)


def test_there_must_be_a_message() -> None:
    assert refused() == "messages must hold at least one message"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", [TextPrompt("")]),
        ("one", [TextPrompt("one")]),
        (["one"], [TextPrompt("one")]),
        (["one", "two"], [TextPrompt("one"), TextPrompt("two")]),
        ([1, 2], [TokenPrompt((1, 2))]),
        ([[1, 2], [3]], [TokenPrompt((1, 2)), TokenPrompt((3,))]),
        ([[]], [TokenPrompt(())]),
    ],
)
def test_a_prompt_is_one_or_several_texts_or_token_lists(prompt: TextCompletionPrompt, expected: list[object]) -> None:
    assert text_prompts(prompt) == expected


@pytest.mark.parametrize("prompt", [[], ["one", 1], [1, [1]], [[1], "one"], [2**64], [[-(2**70)]]])
def test_other_prompts_are_refused(prompt: TextCompletionPrompt) -> None:
    with pytest.raises(BadRequest, match=r"^prompt must") as caught:
        text_prompts(prompt)
    assert caught.value.parameter == "prompt"


def test_the_number_of_prompts_is_limited_and_the_number_of_tokens_is_not() -> None:
    assert len(text_prompts(["one"] * MAX_PROMPTS)) == MAX_PROMPTS
    assert len(text_prompts([1] * (MAX_PROMPTS + 1))) == 1
    with pytest.raises(BadRequest, match=r"^prompt takes at most 128 prompts, got 129$"):
        text_prompts(["one"] * (MAX_PROMPTS + 1))
    with pytest.raises(BadRequest, match="at most 128"):
        text_prompts([[1]] * (MAX_PROMPTS + 1))


def test_usage_adds_up_and_tells_what_was_cached() -> None:
    assert msgspec.to_builtins(usage_body(Usage(12, 3, 8))) == {
        "completion_tokens": 3,
        "prompt_tokens": 12,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 8},
    }
