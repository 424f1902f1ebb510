"""What every dialect makes of an answer, whatever is in it: thoughts, texts, tool calls, log-probabilities."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.core.events import Delta, Event, Finished, ReasoningDelta, ToolCallDelta, Usage
from tests.support.answers import STREAMED, VOICES, ChatVoice, Voice, answers, collected, streamed

every_voice = pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice.name)
CHATS = [voice for voice in VOICES if isinstance(voice, ChatVoice)]


@every_voice
@settings(max_examples=40)
@given(data=st.data())
def test_a_stream_and_the_whole_answer_tell_all_that_the_engine_said(voice: Voice, data: st.DataObject) -> None:
    events = data.draw(answers(voice))
    expected = voice.expected(events)
    assert voice.read(collected(voice.call().machine, events)) == expected
    assert voice.read_stream(streamed(voice.call(stream=True).machine, events)) == expected


@pytest.mark.parametrize("voice", CHATS, ids=lambda voice: voice.name)
@settings(max_examples=40)
@given(data=st.data())
def test_a_choice_streams_its_role_thoughts_text_calls_and_end_in_this_order(
    voice: ChatVoice, data: st.DataObject
) -> None:
    chunks = streamed(voice.call(**STREAMED).machine, data.draw(answers(voice)))
    assert chunks.pop()["choices"] == []
    by_choice: dict[int, list[Any]] = {}
    for chunk in chunks:
        [choice] = chunk["choices"]
        by_choice.setdefault(choice["index"], []).append(choice)
    for choices in by_choice.values():
        assert [bool(choice.get("finish_reason")) for choice in choices] == [False] * (len(choices) - 1) + [True]
        assert ["role" in choice["delta"] for choice in choices[1:]] == [False] * (len(choices) - 1)
        assert choices[-1]["delta"] == {}
        members = [voice.reasoning_member, "content", "tool_calls"]
        said = [
            members.index(member)
            for choice in choices
            for member in choice["delta"]
            if member != "role" and (choice["delta"][member] or choice.get("logprobs"))
        ]
        assert said == sorted(said)


@pytest.mark.parametrize("voice", CHATS, ids=lambda voice: voice.name)
@settings(max_examples=40)
@given(data=st.data())
def test_no_chunk_of_a_stream_says_nothing(voice: ChatVoice, data: st.DataObject) -> None:
    for chunk in streamed(voice.call(stream=True).machine, data.draw(answers(voice))):
        [choice] = chunk["choices"]
        delta = choice["delta"]
        assert any(delta.values()) or choice.get("logprobs") or choice.get("finish_reason")


@every_voice
def test_what_a_dialect_has_no_member_for_is_left_out_and_counted(voice: Voice) -> None:
    thought: list[Event] = [ReasoningDelta(0, "Hm", [1]), Delta(0, "Yes", [2]), Finished(0, "stop"), Usage(5, 3, 0, 1)]
    document = collected(voice.call().machine, thought)
    assert ("Hm" in json.dumps(document)) == voice.tells_reasoning
    assert voice.read(document)[0].text == "Yes"
    usage = document.get("usage") or document.get("token_usage") or document
    assert {usage.get(name) for name in ("completion_tokens", "completion", "response_tokens")} - {None} == {3}


@every_voice
def test_the_thoughts_of_an_answer_are_counted_apart_in_openais_shape(voice: Voice) -> None:
    for thought in (0, 4):
        events: list[Event] = [Delta(0, "Yes", [2]), Finished(0, "stop"), Usage(5, 6, 0, thought)]
        document = collected(voice.call().machine, events)
        if "usage" in document:
            details = document["usage"].get("completion_tokens_details")
            assert details == ({"reasoning_tokens": 4} if thought else None)


@pytest.mark.parametrize("voice", [voice for voice in VOICES if voice.tells_calls], ids=lambda voice: voice.name)
@settings(max_examples=40)
@given(arguments=st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=3), data=st.data())
def test_arguments_split_anywhere_are_the_same_json(
    voice: Voice, arguments: dict[str, Any], data: st.DataObject
) -> None:
    text = json.dumps(arguments)
    cut = data.draw(st.integers(0, len(text)))
    events: list[Event] = [
        ToolCallDelta(0, 0, text[:cut], [1], "call_0", "find"),
        ToolCallDelta(0, 0, text[cut:], [2]),
        Finished(0, "tool_calls"),
        Usage(1, 2, 0),
    ]
    [whole] = voice.read(collected(voice.call().machine, events))
    [piecewise] = voice.read_stream(streamed(voice.call(stream=True).machine, events))
    assert whole == piecewise
    assert [(name, json.loads(sent)) for _, name, sent in whole.calls or []] == [("find", arguments)]
