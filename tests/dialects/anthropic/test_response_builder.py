"""Blocks of an answer in every order, streamed and whole, read by Anthropic's own library.

The tests import the library: each process of a run collects this module, and one needs the second that it takes.
"""

import functools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from dragoman.core.errors import EngineFailed
from dragoman.core.events import Delta, Event, Finished, FinishReason, ReasoningDelta, Started, ToolCallDelta, Usage
from dragoman.dialects.anthropic import codec
from dragoman.dialects.http.codec import ResponseBuilder
from tests.support.dialects.anthropic_streams import assembled_message
from tests.support.dialects.cases import build_response, stream_documents
from tests.support.dialects.decode_contexts import ID, decode_context

if TYPE_CHECKING:
    from anthropic.types import Message, RawMessageStreamEvent

EAGER = {"name": "eager", "eager_input_streaming": True}
LAZY = {"name": "lazy"}


def builder(*, stream: bool = False, **fields: Any) -> ResponseBuilder:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], "tools": [EAGER, LAZY]}
    return codec.decode_messages(json.dumps({**body, "stream": stream, **fields}).encode(), decode_context()).builder


def call(index: int, name: str, *pieces: str) -> list[Event]:
    first, *rest = pieces
    return [
        ToolCallDelta(index=0, call_index=index, arguments=first, token_ids=[1], id=f"call_{index}", name=name),
        *(ToolCallDelta(index=0, call_index=index, arguments=piece, token_ids=[1]) for piece in rest),
    ]


def ending(reason: FinishReason = "stop", stop: str | int | None = None, tokens: int = 5) -> list[Event]:
    return [Finished(0, reason, stop), Usage(20, tokens, 8, 2)]


@functools.cache
def event_type() -> "TypeAdapter[RawMessageStreamEvent]":
    from anthropic.types import RawMessageStreamEvent

    return TypeAdapter(RawMessageStreamEvent)


def read_by_the_library(documents: Sequence[Any]) -> "Message":
    """Return the message that Anthropic's library puts together. It validates each event."""
    from anthropic.lib.streaming._messages import accumulate_event

    snapshot = None
    buffers: dict[int, bytes] = {}
    for document in documents:
        if document["type"] != "ping":
            event = event_type().validate_python(document)
            snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)
    assert snapshot is not None
    return snapshot


def comparable(message: Any) -> Any:
    """Return what streamed and whole messages have in common in the library's own form."""
    from anthropic.types import Message

    dumped = Message.model_validate(message if isinstance(message, dict) else message.to_dict()).to_dict()
    return {name: dumped[name] for name in ("id", "model", "content", "stop_reason", "stop_sequence")}


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """Draw runs of thinking, text and calls in any order, and an end."""
    events: list[Event] = [Started(20, 8)] if draw(st.booleans()) else []
    calls = 0
    for kind in draw(st.lists(st.sampled_from(["thinking", "text", "lazy", "eager"]), max_size=7)):
        pieces = draw(st.lists(st.text(max_size=3), min_size=1, max_size=3))
        if kind == "thinking":
            events += [ReasoningDelta(0, piece, [1]) for piece in pieces]
        elif kind == "text":
            events += [Delta(0, piece, [1]) for piece in pieces]
        else:
            arguments = json.dumps(draw(st.dictionaries(st.text(max_size=2), st.integers(), max_size=2)))
            cut = draw(st.integers(0, len(arguments)))
            events += call(calls, kind, arguments[:cut], arguments[cut:])
            calls += 1
    return [*events, *ending(draw(st.sampled_from(get_args(FinishReason))))]


@settings(max_examples=60)
@given(events=answers())
def test_blocks_of_any_order_are_one_at_a_time_and_the_whole_answer_has_the_same(events: list[Event]) -> None:
    streamed = builder(stream=True)
    documents = stream_documents(streamed, events)
    whole = build_response(builder(), events)
    assembled = assembled_message(documents)
    assert assembled["content"] == whole["content"]
    assert assembled["usage"] == whole["usage"]
    assert comparable(read_by_the_library(documents)) == comparable(whole)
    assert all(block.get("text") or block.get("thinking") or block.get("id") for block in whole["content"])
    [end] = streamed.terminator()
    assert (json.loads(end.data), end.name) == ({"type": "message_stop"}, "message_stop")
    kinds = [type(event) for event in events if not isinstance(event, Delta | ReasoningDelta) or event.text]
    expected = sum(isinstance(event, ToolCallDelta) and event.name is not None for event in events)
    assert sum(block["type"] == "tool_use" for block in whole["content"]) == expected
    for kind, name in ((ReasoningDelta, "thinking"), (Delta, "text")):
        runs = sum(each is kind and kinds[number - 1 : number] != [kind] for number, each in enumerate(kinds))
        assert sum(block["type"] == name for block in whole["content"]) == runs


def test_every_event_is_named_after_its_type() -> None:
    events = [Started(20, 8), ReasoningDelta(0, "a"), Delta(0, "b"), *call(0, "lazy", "{}"), *ending("tool_calls")]
    streamed = builder(stream=True)
    sent = [event for each in events for event in streamed.feed(each)]
    assert all(event.name == json.loads(event.data)["type"] for event in sent)


def test_the_first_event_has_the_prompts_tokens_and_the_last_one_all_tokens() -> None:
    start, ping, *_, end = stream_documents(builder(stream=True), [Started(20, 8), Delta(0, "a"), *ending()])
    assert start["message"] == {
        "id": f"msg_{ID}",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 12,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 8,
            "output_tokens": 0,
            "service_tier": "standard",
        },
    }
    assert ping == {"type": "ping"}
    assert end["usage"] == start["message"]["usage"] | {
        "output_tokens": 5,
        "output_tokens_details": {"thinking_tokens": 2},
    }


@pytest.mark.parametrize(
    ("events", "reason", "sequence"),
    [
        (ending(), "end_turn", None),
        (ending("stop", 7), "end_turn", None),
        (ending("stop", "\n\nHuman:"), "stop_sequence", "\n\nHuman:"),
        (ending("length", tokens=9), "max_tokens", None),
        (ending("length", tokens=8), "model_context_window_exceeded", None),
        ([Finished(0, "length"), Usage(20, 8, 0, source="estimated")], "max_tokens", None),
        (ending("content_filter"), "refusal", None),
        ([*call(0, "lazy", "{}"), *ending("content_filter")], "refusal", None),
        ([*call(0, "lazy", "{}"), *ending("tool_calls")], "tool_use", None),
        ([*call(0, "lazy", "{}"), *ending("stop")], "tool_use", None),
    ],
)
def test_the_reason_to_stop_is_in_anthropics_words(events: list[Event], reason: str, sequence: str | None) -> None:
    whole = build_response(builder(), events)
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, sequence)
    end = stream_documents(builder(stream=True), events)[-1]
    assert end["delta"] == {"stop_reason": reason, "stop_sequence": sequence}


def test_a_call_is_streamed_in_one_piece_unless_its_tool_asks_for_pieces() -> None:
    for name, pieces in (("lazy", ['{"a":1}']), ("eager", ['{"a"', ":1}"])):
        documents = stream_documents(builder(stream=True), [*call(0, name, '{"a"', ":1}"), *ending("tool_calls")])
        sent = [each["delta"]["partial_json"] for each in documents if each["type"] == "content_block_delta"]
        assert sent == pieces
        [block] = assembled_message(documents)["content"]
        assert (block["id"], block["name"], block["input"]) == ("toolu_call_0", name, {"a": 1})


@pytest.mark.parametrize("end", ["length", "content_filter"])
def test_a_call_that_is_cut_off_is_left_out_streamed_or_not(end: FinishReason) -> None:
    events = [Delta(0, "I look."), *call(0, "lazy", '{"a":'), *ending(end, tokens=9)]
    whole = build_response(builder(), events)
    assert [block["type"] for block in whole["content"]] == ["text"]
    assert assembled_message(stream_documents(builder(stream=True), events))["content"] == whole["content"]
    complete = [*call(0, "lazy", '{"a":1}'), *ending(end, tokens=9)]
    assert [block["input"] for block in build_response(builder(), complete)["content"]] == [{"a": 1}]


def test_a_complete_call_whose_input_is_no_object_has_an_empty_one() -> None:
    for arguments in ("", "[]", "nothing"):
        [block] = build_response(builder(), [*call(0, "lazy", arguments), *ending("tool_calls")])["content"]
        assert block["input"] == {}


def test_omitted_thinking_has_blocks_without_text() -> None:
    events = [ReasoningDelta(0, "secret"), Delta(0, "a"), *ending()]
    omitted: dict[str, Any] = {"thinking": {"type": "adaptive", "display": "omitted"}}
    whole = build_response(builder(**omitted), events)
    assert [(block["type"], block.get("thinking")) for block in whole["content"]] == [("thinking", ""), ("text", None)]
    documents = stream_documents(builder(stream=True, **omitted), events)
    assert assembled_message(documents)["content"] == whole["content"]
    assert "secret" not in json.dumps(documents)


def test_text_without_citations_has_no_such_member() -> None:
    # The Vercel AI SDK takes a list or nothing, and discards an answer with null.
    events = [Delta(0, "a"), *ending()]
    assert build_response(builder(), events)["content"] == [{"type": "text", "text": "a"}]
    _, _, start, *_ = stream_documents(builder(stream=True), events)
    assert start["content_block"] == {"type": "text", "text": ""}


def test_a_ping_follows_the_first_event_only() -> None:
    streamed = builder(stream=True)
    assert streamed.keep_alive() is None, "the library takes nothing before message_start"
    stream_documents(streamed, [Started(3, 0)])
    ping = streamed.keep_alive()
    assert ping is not None
    assert (ping.name, json.loads(ping.data)) == ("ping", {"type": "ping"})


def test_an_answer_without_usage_is_an_error() -> None:
    with pytest.raises(EngineFailed):
        build_response(builder(), [Delta(0, "a")])
