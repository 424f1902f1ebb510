"""Content blocks and messages as the engine receives them."""

import json
from typing import Any

import pytest

from dragoman.core.errors import BadRequest
from dragoman.core.request import ChatPrompt, ImagePart, Message, TextPart, ToolCall
from dragoman.dialects.anthropic import codec
from tests.support.dialects.decode_contexts import decode_context

BILLING = "x-anthropic-billing-header: cc_version=2.1.101.e51; cc_entrypoint=cli; cch=a5145;"
CALL = {"type": "tool_use", "id": "toolu_01", "name": "find", "input": {"q": "é"}}
CALLED = Message(role="assistant", content="", tool_calls=(ToolCall("01", "find", '{"q":"é"}'),))
ASKED = {"role": "user", "content": "Find it"}
PNG: dict[str, Any] = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}}


def prompt(*messages: Any, **fields: Any) -> ChatPrompt:
    body = {"model": "m", "max_tokens": 5, "messages": list(messages), **fields}
    decoded = codec.decode_messages(json.dumps(body).encode(), decode_context()).requests[0].prompt
    assert isinstance(decoded, ChatPrompt)
    return decoded


def converted(*messages: Any, **fields: Any) -> list[tuple[str, Any]]:
    return [(message.role, message.content) for message in prompt(*messages, **fields).messages]


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value, "cache_control": {"type": "ephemeral"}, "citations": None}


def result(content: Any, call_id: str = "toolu_01", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **fields}


def results(*blocks: Any) -> list[tuple[str, Any]]:
    """Return what becomes of results that follow a call."""
    return converted(ASKED, {"role": "assistant", "content": [CALL]}, user(*blocks))[2:]


def test_blocks_of_text_are_joined_without_separator_and_empty_ones_dropped() -> None:
    assert converted(user(text("a"), text(""), text("b"))) == [("user", "ab")]


def test_system_messages_keep_their_place() -> None:
    messages = [ASKED, {"role": "system", "content": [text("Agents: none")]}, {"role": "assistant", "content": "ok"}]
    assert converted(*messages, {"role": "system", "content": "late"}, ASKED, system="Be brief") == [
        ("system", "Be brief"),
        ("user", "Find it"),
        ("system", "Agents: none"),
        ("assistant", "ok"),
        ("system", "late"),
        ("user", "Find it"),
    ]


def test_consecutive_messages_of_one_role_are_one_turn() -> None:
    hello = {"role": "assistant", "content": "Hello"}
    other = {"role": "ctx", "content": "more"}
    assert converted(
        ASKED, other, hello, {"role": "assistant", "content": [text("again"), CALL]}, user(result("x"))
    ) == [
        ("user", "Find it\n\nmore"),
        ("assistant", "Hello\n\nagain"),
        ("tool", "x"),
    ]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (BILLING, ""),
        (f"{BILLING}\nYou are an agent; cch=1;", "You are an agent; cch=1;"),
        (f"{BILLING} You are an agent.\nBe brief;", "You are an agent.\nBe brief;"),
        (f"{BILLING[:-1]}\nYou are", "You are"),
        (f"Quote {BILLING}", f"Quote {BILLING}"),
        ("x-anthropic-billing-header: in words", "in words"),
    ],
)
def test_the_attribution_is_removed_from_system_texts_only_at_their_beginning(sent: str, kept: str) -> None:
    expected = [("system", kept)] if kept else []
    for system in (sent, [text(sent)]):
        assert converted(ASKED, system=system) == [*expected, ("user", "Find it")]
    assert converted(ASKED, {"role": "system", "content": sent}) == [("user", "Find it"), *expected]
    assert converted({"role": "user", "content": sent}) == [("user", sent)], "a user may quote it"


def test_two_requests_that_differ_in_the_attribution_have_the_same_prompt() -> None:
    one, other = (prompt(ASKED, system=[text(BILLING.replace("a5145", cch)), text("Be brief")]) for cch in ("1", "2"))
    assert one == other


def test_calls_come_back_with_the_engines_own_ids() -> None:
    assert prompt(ASKED, {"role": "assistant", "content": [CALL]}, user(result("found"))).messages[1:] == (
        CALLED,
        Message(role="tool", content="found", tool_call_id="01"),
    )


def test_results_precede_the_text_of_their_message_in_order() -> None:
    calls = [CALL, {**CALL, "id": "toolu_02"}]
    messages = prompt(
        ASKED, {"role": "assistant", "content": calls}, user(text("So?"), result("b", "toolu_02"), result("a"))
    )
    assert [(each.role, each.content, each.tool_call_id) for each in messages.messages[2:]] == [
        ("tool", "b", "02"),
        ("tool", "a", "01"),
        ("user", "So?", None),
    ]


def test_a_call_without_result_gets_an_empty_one() -> None:
    call = {"role": "assistant", "content": [CALL]}
    empty = ("tool", "")
    assert converted(ASKED, call)[2:] == [empty]
    assert converted(ASKED, call, user(text("Never mind")))[2:] == [empty, ("user", "Never mind")]
    system = {"role": "system", "content": "s"}
    assert converted(ASKED, call, system, user(result("x")))[2:] == [("system", "s"), ("tool", "x")]


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (None, ""),
        ([], ""),
        ([text("a"), {"type": "tool_reference", "tool_name": "t"}, text("b")], "ab"),
        ([text("Seen: "), {"type": "image", "source": {"type": "file", "file_id": "f"}}], "Seen: [image]"),
        ([{"type": "image", "source": {"type": "url", "url": "http://a"}}], "[image]"),
        ([PDF], "[document]"),
        ([{"type": "search_result", "source": "u", "title": "T", "content": [text("found")]}], "T\n\nfound"),
    ],
)
def test_what_cannot_be_taken_of_a_result_is_text(content: Any, shown: str) -> None:
    assert results(result(content)) == [("tool", shown)]
    assert results(result(content, is_error=True)) == [("tool", f"Error: {shown}")]


def test_an_image_of_a_result_keeps_its_place() -> None:
    image = ImagePart("data:image/png;base64,AAAA")
    assert results(result([text("a"), PNG, PDF])) == [("tool", (TextPart("a"), image, TextPart("[document]")))]
    assert results(result([PNG], is_error=True)) == [("tool", (TextPart("Error: "), image))]


def test_thinking_is_the_reasoning_of_its_turn_whoever_signed_it() -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "of another server"}
    answer = {"role": "assistant", "content": [thinking, {"type": "redacted_thinking", "data": "x"}, text("Yes")]}
    assert prompt(ASKED, answer, ASKED).messages[1] == Message(role="assistant", content="Yes", reasoning="Hm.")


def test_blocks_of_the_vendors_own_tools_are_dropped() -> None:
    unknown = [
        {"type": kind, "content": {"type": "error"}} for kind in ("server_tool_use", "web_search_tool_result", "new")
    ]
    assert converted(ASKED, {"role": "assistant", "content": [*unknown, text("Yes")]}, ASKED)[1] == ("assistant", "Yes")


def test_an_answer_without_content_is_left_out() -> None:
    assert converted(ASKED, {"role": "assistant", "content": [text("")]}) == [("user", "Find it")]


def test_documents_of_text_are_shown_with_their_title() -> None:
    for source in (
        {"type": "text", "media_type": "text/plain", "data": "T"},
        {"type": "content", "content": [text("T")]},
    ):
        document = {"type": "document", "source": source, "title": "Title", "context": "Context"}
        assert converted(user(document, text("?"))) == [("user", "Title\n\nContext\n\nT?")]


def test_images_keep_their_place_between_texts() -> None:
    image = ImagePart("data:image/png;base64,AAAA")
    assert converted(user(text("a"), PNG, text("b"), PNG)) == [("user", (TextPart("a"), image, TextPart("b"), image))]
    assert converted(user(PNG), user(text("a"), text("b"))) == [("user", (image, TextPart("ab")))]


def test_images_and_documents_of_system_messages_keep_their_place() -> None:
    shown = (TextPart("Our logo: "), ImagePart("data:image/png;base64,AAAA"))
    document = {"type": "document", "source": {"type": "text", "data": "Rules"}}
    sent = [text("Our logo: "), PNG]
    assert converted(ASKED, system=sent)[0] == ("system", shown)
    assert converted(ASKED, {"role": "system", "content": sent}, ASKED)[1] == ("system", shown)
    assert converted(ASKED, system=[text(BILLING), document])[0] == ("system", "Rules")


@pytest.mark.parametrize("last", ["It is", [text("It "), text("is")]])
def test_a_last_message_of_the_assistant_is_continued(last: Any) -> None:
    begun = prompt(ASKED, {"role": "assistant", "content": last})
    assert (begun.continue_final_message, begun.add_generation_prompt) == (True, False)
    assert begun.messages[-1].content == "It is"
    asked = prompt(ASKED)
    assert (asked.continue_final_message, asked.add_generation_prompt) == (False, True)


@pytest.mark.parametrize(
    ("block", "place"),
    [
        (PDF, "messages[0].content[0].source"),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, "messages[0].content[0].source"),
        ({"type": "image", "source": {"type": "url", "url": "http://a"}}, "messages[0].content[0].source"),
        ({"type": "image", "source": {**PNG["source"], "media_type": "text/html"}}, "messages[0].content[0].source"),
        ({"type": "tool_result", "content": "x"}, "messages[0].content[0].tool_use_id"),
        (result({"a": 1}), "messages[0].content[0].content"),
    ],
)
def test_what_cannot_be_converted_is_refused_at_its_place(block: Any, place: str) -> None:
    with pytest.raises(BadRequest) as raised:
        prompt(user(block))
    assert place in raised.value.message


@pytest.mark.parametrize("block", [PNG, PDF])
def test_an_assistants_image_or_document_is_refused_at_its_place(block: Any) -> None:
    with pytest.raises(BadRequest, match=r"messages\[1\]\.content\[1\]\.type"):
        prompt(ASKED, {"role": "assistant", "content": [text("Here: "), block]})


@pytest.mark.parametrize(
    "call", [{"name": "f", "input": {}}, {"id": "1", "input": {}}, {"id": "1", "name": "f", "input": []}]
)
def test_a_call_needs_an_id_a_name_and_an_object(call: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=r"messages\[0\]\.content\[0\]"):
        prompt({"role": "assistant", "content": [{"type": "tool_use", **call}]})
    assert converted(ASKED, {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f"}]})[2:] == [
        ("tool", "")
    ]
