"""What every dialect makes of an answer, whatever is in it: thoughts, texts, tool calls, log-probabilities."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.events import Delta, Event, Finished, ReasoningDelta, ToolCallDelta, Usage
from tests.support.dialects.answer_events import answer_events
from tests.support.dialects.cases import (
    DIALECT_CASES,
    STREAM_OPTIONS,
    ChatDialectCase,
    DialectCase,
    build_response,
    stream_documents,
)

every_case = pytest.mark.parametrize("voice", DIALECT_CASES, ids=lambda voice: voice.name)
CHAT_CASES = [voice for voice in DIALECT_CASES if isinstance(voice, ChatDialectCase)]


@every_case
@settings(max_examples=40)
@given(data=st.data())
def test_streamed_and_full_responses_contain_every_engine_event(voice: DialectCase, data: st.DataObject) -> None:
    events = data.draw(answer_events(voice))
    expected = voice.expected(events)
    assert voice.read(build_response(voice.decode().builder, events)) == expected
    assert voice.read_stream(stream_documents(voice.decode(stream=True).builder, events)) == expected


@pytest.mark.parametrize("voice", CHAT_CASES, ids=lambda voice: voice.name)
@settings(max_examples=40)
@given(data=st.data())
def test_a_choice_streams_role_reasoning_text_tool_calls_and_finish_in_order(
    voice: ChatDialectCase, data: st.DataObject
) -> None:
    chunks = stream_documents(voice.decode(**STREAM_OPTIONS).builder, data.draw(answer_events(voice)))
    assert chunks.pop()["choices"] == []
    by_choice: dict[int, list[Any]] = {}
    for chunk in chunks:
        [choice] = chunk["choices"]
        by_choice.setdefault(choice["index"], []).append(choice)
    for choices in by_choice.values():
        assert [bool(choice.get("finish_reason")) for choice in choices] == [False] * (len(choices) - 1) + [True]
        assert ["role" in choice["delta"] for choice in choices[1:]] == [False] * (len(choices) - 1)
        assert choices[-1]["delta"] == {}
        members = [voice.reasoning_field, "content", "tool_calls"]
        said = [
            members.index(member)
            for choice in choices
            for member in choice["delta"]
            if member != "role" and (choice["delta"][member] or choice.get("logprobs"))
        ]
        assert said == sorted(said)


@pytest.mark.parametrize("voice", CHAT_CASES, ids=lambda voice: voice.name)
@settings(max_examples=40)
@given(data=st.data())
def test_no_chunk_is_empty(voice: ChatDialectCase, data: st.DataObject) -> None:
    for chunk in stream_documents(voice.decode(stream=True).builder, data.draw(answer_events(voice))):
        [choice] = chunk["choices"]
        delta = choice["delta"]
        assert any(delta.values()) or choice.get("logprobs") or choice.get("finish_reason")


@every_case
def test_reasoning_without_a_field_is_omitted_but_counted(voice: DialectCase) -> None:
    thought: list[Event] = [ReasoningDelta(0, "Hm", [1]), Delta(0, "Yes", [2]), Finished(0, "stop"), Usage(5, 3, 0, 1)]
    document = build_response(voice.decode().builder, thought)
    assert ("Hm" in json.dumps(document)) == voice.renders_reasoning
    assert voice.read(document)[0].text == "Yes"
    usage = document.get("usage") or document.get("token_usage") or document
    assert {usage.get(name) for name in ("completion_tokens", "completion", "response_tokens")} - {None} == {3}


@every_case
def test_reasoning_tokens_are_reported_separately_in_openai_usage(voice: DialectCase) -> None:
    for thought in (0, 4):
        events: list[Event] = [Delta(0, "Yes", [2]), Finished(0, "stop"), Usage(5, 6, 0, thought)]
        document = build_response(voice.decode().builder, events)
        if "usage" in document:
            details = document["usage"].get("completion_tokens_details")
            assert details == ({"reasoning_tokens": 4} if thought else None)


@pytest.mark.parametrize(
    "voice", [voice for voice in DIALECT_CASES if voice.renders_tool_calls], ids=lambda voice: voice.name
)
@settings(max_examples=40)
@given(arguments=st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=3), data=st.data())
def test_tool_arguments_split_anywhere_form_the_same_json(
    voice: DialectCase, arguments: dict[str, Any], data: st.DataObject
) -> None:
    text = json.dumps(arguments)
    cut = data.draw(st.integers(0, len(text)))
    events: list[Event] = [
        ToolCallDelta(index=0, call_index=0, arguments=text[:cut], token_ids=[1], id="call_0", name="find"),
        ToolCallDelta(0, 0, text[cut:], [2]),
        Finished(0, "tool_calls"),
        Usage(1, 2, 0),
    ]
    [whole] = voice.read(build_response(voice.decode().builder, events))
    [piecewise] = voice.read_stream(stream_documents(voice.decode(stream=True).builder, events))
    assert whole == piecewise
    assert [(name, json.loads(sent)) for _, name, sent in whole.tool_calls or []] == [("find", arguments)]
