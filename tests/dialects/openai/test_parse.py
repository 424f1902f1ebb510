"""Request fields of OpenAI's API: what they are converted to, and what is wrong with them."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.request import ImagePart, Message, TextPart, TextPrompt, TokenPrompt, ToolCall
from dragoman.dialects.http.validation import (
    InvalidFields,
    InvalidValue,
    PatternMismatch,
    Violation,
    decode_body,
    describe,
)
from dragoman.dialects.openai.parse import (
    DATA_SCHEMES,
    MAX_PROMPTS,
    MAX_SCHEMA_LEVELS,
    MAX_TOOLS_BYTES,
    parse_messages,
    parse_prompts,
    parse_tools,
)
from dragoman.dialects.openai.wire import ChatMessage, FunctionDefinition, TextCompletionPrompt, ToolDefinition

CALL = {"id": "call_0", "type": "function", "function": {"name": "now", "arguments": '{"zone": "UTC"}'}}


def conversation(*messages: dict[str, Any]) -> tuple[Message, ...]:
    sent = msgspec.convert(list(messages), list[ChatMessage])
    violations: list[Violation] = []
    converted = parse_messages(sent, violations)
    assert violations == []
    return converted


@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(), st.none() | st.text()), min_size=1)
)
def test_a_conversation_keeps_its_roles_texts_and_names(turns: list[tuple[str, str, str | None]]) -> None:
    messages = conversation(*({"role": role, "content": text, "name": name} for role, text, name in turns))
    assert [(message.role, message.content, message.name) for message in messages] == turns


def test_the_developer_role_maps_to_system() -> None:
    assert conversation({"role": "developer", "content": "Be brief."}) == (Message(role="system", content="Be brief."),)


@given(st.lists(st.text()))
def test_text_parts_are_joined_without_separator(texts: list[str]) -> None:
    parts = [{"type": "text", "text": text} for text in texts]
    assert conversation({"role": "user", "content": parts}) == (Message(role="user", content="".join(texts)),)


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}])
def test_an_assistant_message_with_tool_calls_may_have_no_content(content: dict[str, Any]) -> None:
    made = ToolCall("call_0", "now", '{"zone": "UTC"}')
    assert conversation({"role": "assistant", "tool_calls": [CALL], **content}) == (
        Message(role="assistant", content="", tool_calls=(made,)),
    )


def test_a_call_without_arguments_has_none() -> None:
    [message] = conversation({"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "now"}}]})
    assert message.tool_calls == (ToolCall("1", "now", "{}"),)


def test_a_tool_answers_a_call() -> None:
    answer = {"role": "tool", "content": "12:00", "tool_call_id": "call_0"}
    assert conversation(answer) == (Message(role="tool", content="12:00", tool_call_id="call_0"),)


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}}


@pytest.mark.parametrize("role", ["user", "system", "developer", "tool"])
def test_images_are_parts_of_messages_to_models_that_take_them(role: str) -> None:
    content = [{"type": "text", "text": "What is it?"}, IMAGE]
    sent = msgspec.convert([{"role": role, "content": content}], list[ChatMessage])
    violations: list[Violation] = []
    [message] = parse_messages(sent, violations, image_schemes=DATA_SCHEMES)
    assert not violations
    assert message.content == (TextPart("What is it?"), ImagePart("data:image/png;base64,AA", "low"))


@pytest.mark.parametrize(
    ("sent", "detail"), [("low", "low"), ("high", "high"), ("auto", "auto"), ("original", "high"), (None, None)]
)
def test_an_image_may_have_any_detail_of_openais(sent: str | None, detail: str | None) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": sent}}
    messages = msgspec.convert([{"role": "user", "content": [part]}], list[ChatMessage])
    [message] = parse_messages(messages, [], image_schemes=DATA_SCHEMES)
    assert [image.detail for image in message.images] == [detail]


@pytest.mark.parametrize(
    ("role", "part", "reason"),
    [
        ("user", {"type": "image_url"}, "messages[0].content[0].image_url is required"),
        (
            "user",
            {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}},
            "messages[0].content[0].image_url.url: Images are taken as data: URLs only, since this server fetches none",
        ),
        (
            "assistant",
            IMAGE,
            "messages[0].content[0].type: An assistant's message takes text only, got type 'image_url'",
        ),
    ],
)
def test_an_image_that_cannot_be_taken_is_named(role: str, part: dict[str, Any], reason: str) -> None:
    sent = msgspec.convert([{"role": role, "content": [part]}], list[ChatMessage])
    violations: list[Violation] = []
    parse_messages(sent, violations, image_schemes=DATA_SCHEMES)
    assert [describe(found.field, found.problem) for found in violations] == [reason]


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
    violations: list[Violation] = []
    parse_messages(sent, violations)
    assert [describe(found.field, found.problem) for found in violations] == [reason]


@given(st.text(max_size=70) | st.from_regex(r"[A-Za-z0-9_-]{1,64}\n?", fullmatch=True))
def test_a_name_has_1_to_64_letters_digits_and_lines(name: str) -> None:
    body = b'{"name":%s}' % _json(name)
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        assert decode_body(body, FunctionDefinition).name == name
    else:
        with pytest.raises(InvalidFields) as caught:
            decode_body(body, FunctionDefinition)
        [violation] = caught.value.violations
        assert (violation.path, type(violation.problem)) == (("name",), PatternMismatch)


def _json(text: str) -> bytes:
    return msgspec.json.encode(text)


def test_tool_choice_none_removes_the_tools() -> None:
    tool = ToolDefinition("function", FunctionDefinition("now"))
    violations: list[Violation] = []
    assert parse_tools([], None, violations) is None
    assert parse_tools([], "auto", violations) is None
    assert parse_tools([tool], "none", violations) is None
    assert parse_tools([tool], None, violations) is not None
    assert violations == []


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
    assert parse_prompts(prompt) == expected


@pytest.mark.parametrize("prompt", [[], ["one", 1], [1, [1]], [[1], "one"], [2**64], [[-(2**70)]]])
def test_other_prompts_are_rejected(prompt: TextCompletionPrompt) -> None:
    with pytest.raises(BadRequest, match=r"^prompt must") as caught:
        parse_prompts(prompt)
    assert caught.value.parameter == "prompt"


def test_the_number_of_prompts_is_limited_and_the_number_of_tokens_is_not() -> None:
    assert len(parse_prompts(["one"] * MAX_PROMPTS)) == MAX_PROMPTS
    assert len(parse_prompts([1] * (MAX_PROMPTS + 1))) == 1
    with pytest.raises(BadRequest, match=r"^prompt takes at most 128 prompts, got 129$"):
        parse_prompts(["one"] * (MAX_PROMPTS + 1))
    with pytest.raises(BadRequest, match="at most 128"):
        parse_prompts([[1]] * (MAX_PROMPTS + 1))


def tool_violations(*parameters: dict[str, Any]) -> list[Violation]:
    tools = [
        ToolDefinition("function", FunctionDefinition(f"f{index}", parameters=each))
        for index, each in enumerate(parameters)
    ]
    violations: list[Violation] = []
    parse_tools(tools, None, violations)
    return violations


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"const": ""}
    for _ in range(levels - 1):
        schema = {"not": schema}
    return schema


def test_the_levels_of_a_schema_are_limited() -> None:
    assert tool_violations(nested(MAX_SCHEMA_LEVELS)) == []
    for levels in (MAX_SCHEMA_LEVELS + 1, 5000):
        [violation] = tool_violations(nested(levels))
        assert violation == Violation(
            ("tools", 0, "function", "parameters"), InvalidValue(f"A schema has at most {MAX_SCHEMA_LEVELS} levels")
        )


def test_the_schemas_of_all_tools_together_are_limited() -> None:
    half = {"const": "a" * (MAX_TOOLS_BYTES // 2 - 100)}
    assert tool_violations(half, half) == []
    [violation] = tool_violations(half, half, half)
    assert violation.path == ("tools",)
