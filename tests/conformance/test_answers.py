"""How every dialect renders reasoning, text, tool calls and log-probabilities."""

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

every_case = pytest.mark.parametrize("case", DIALECT_CASES, ids=lambda case: case.name)
CHAT_CASES = [case for case in DIALECT_CASES if isinstance(case, ChatDialectCase)]


@every_case
@given(data=st.data())
def test_streamed_and_full_responses_contain_every_engine_event(case: DialectCase, data: st.DataObject) -> None:
    events = data.draw(answer_events(case))
    expected = case.expected(events)
    assert case.read(build_response(case.decode().builder, events)) == expected
    assert case.read_stream(stream_documents(case.decode(stream=True).builder, events)) == expected


@every_case
@settings(max_examples=15)
@given(data=st.data())
def test_the_whole_answer_is_the_same_whether_its_stream_is_rendered_or_not(
    case: DialectCase, data: st.DataObject
) -> None:
    events = data.draw(answer_events(case))
    rendered = case.decode(stream=True).builder
    stream_documents(rendered, events)
    assert build_response(case.decode(stream=True).builder, events) == json.loads(rendered.build())


@pytest.mark.parametrize("case", CHAT_CASES, ids=lambda case: case.name)
@given(data=st.data())
def test_a_choice_streams_role_reasoning_text_tool_calls_and_finish_in_order(
    case: ChatDialectCase, data: st.DataObject
) -> None:
    chunks = stream_documents(case.decode(**STREAM_OPTIONS).builder, data.draw(answer_events(case)))
    assert chunks.pop()["choices"] == []
    by_choice: dict[int, list[Any]] = {}
    for chunk in chunks:
        [choice] = chunk["choices"]
        by_choice.setdefault(choice["index"], []).append(choice)
    for choices in by_choice.values():
        assert [bool(choice.get("finish_reason")) for choice in choices] == [False] * (len(choices) - 1) + [True]
        assert ["role" in choice["delta"] for choice in choices[1:]] == [False] * (len(choices) - 1)
        assert choices[-1]["delta"] == {}
        members = [case.reasoning_field, "content", "tool_calls"]
        order = [
            members.index(member)
            for choice in choices
            for member in choice["delta"]
            if member != "role" and (choice["delta"][member] or choice.get("logprobs"))
        ]
        assert order == sorted(order)


@pytest.mark.parametrize("case", CHAT_CASES, ids=lambda case: case.name)
@given(data=st.data())
def test_no_chunk_is_empty(case: ChatDialectCase, data: st.DataObject) -> None:
    for chunk in stream_documents(case.decode(stream=True).builder, data.draw(answer_events(case))):
        [choice] = chunk["choices"]
        delta = choice["delta"]
        assert any(delta.values()) or choice.get("logprobs") or choice.get("finish_reason")


@every_case
def test_reasoning_without_a_field_is_omitted_but_counted(case: DialectCase) -> None:
    events: list[Event] = [ReasoningDelta(0, "Hm", [1]), Delta(0, "Yes", [2]), Finished(0, "stop"), Usage(5, 3, 0, 1)]
    document = build_response(case.decode().builder, events)
    assert ("Hm" in json.dumps(document)) == case.renders_reasoning
    assert case.read(document)[0].text == "Yes"
    usage = document.get("usage") or document.get("token_usage") or document
    names = ("completion_tokens", "completion", "response_tokens", "output_tokens")
    assert {usage.get(name) for name in names} - {None} == {3}


@every_case
def test_reasoning_tokens_are_reported_separately_in_openai_usage(case: DialectCase) -> None:
    for reasoning_tokens in (0, 4):
        events: list[Event] = [Delta(0, "Yes", [2]), Finished(0, "stop"), Usage(5, 6, 0, reasoning_tokens)]
        document = build_response(case.decode().builder, events)
        usage = document.get("usage", {})
        if "output_tokens_details" in usage:
            assert list(usage["output_tokens_details"].values()) == [reasoning_tokens]
        elif "completion_tokens" in usage:
            details = usage.get("completion_tokens_details")
            assert details == ({"reasoning_tokens": 4} if reasoning_tokens else None)


@pytest.mark.parametrize(
    "case", [case for case in DIALECT_CASES if case.renders_tool_calls], ids=lambda case: case.name
)
@given(arguments=st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=3), data=st.data())
def test_tool_arguments_split_anywhere_form_the_same_json(
    case: DialectCase, arguments: dict[str, Any], data: st.DataObject
) -> None:
    text = json.dumps(arguments)
    cut = data.draw(st.integers(0, len(text)))
    events: list[Event] = [
        ToolCallDelta(index=0, call_index=0, arguments=text[:cut], token_ids=[1], id="call_0", name="find"),
        ToolCallDelta(index=0, call_index=0, arguments=text[cut:], token_ids=[2]),
        Finished(0, "tool_calls"),
        Usage(1, 2, 0),
    ]
    [whole] = case.read(build_response(case.decode().builder, events))
    [piecewise] = case.read_stream(stream_documents(case.decode(stream=True).builder, events))
    assert whole == piecewise
    assert [(name, json.loads(sent)) for _, name, sent in whole.tool_calls or []] == [("find", arguments)]
