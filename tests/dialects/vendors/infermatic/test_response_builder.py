"""The documents of both routes, streamed and whole."""

import json

import pytest

from dragoman.core.errors import EngineFailed
from dragoman.core.events import (
    Delta,
    Event,
    Finished,
    ReasoningDelta,
    TokenLogprobs,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from dragoman.dialects.http.codec import DecodedRequest
from dragoman.dialects.http.sse import DONE
from dragoman.dialects.vendors.infermatic.codec import decode_chat, decode_text
from tests.support.dialects.cases import build_response, stream_documents
from tests.support.dialects.decode_contexts import ID, decode_context


def chat(**fields: object) -> DecodedRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | fields
    return decode_chat(json.dumps(body).encode(), decode_context())


def text(**fields: object) -> DecodedRequest:
    return decode_text(json.dumps({"model": "m", "prompt": "Once"} | fields).encode(), decode_context())


HELLO_EVENTS: list[Event] = [
    Delta(0, "Hel", [1]),
    Delta(0, "", [2]),
    Delta(0, "lo!", [3]),
    Finished(0, "stop"),
    Usage(12, 3, 0),
]


def test_a_chat_answer_has_the_documented_shape() -> None:
    answer = build_response(chat().builder, HELLO_EVENTS)
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "id": f"chatcmpl-{ID}",
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "finish_reason": "stop",
                "index": 0,
                "message": {"content": "Hello!", "role": "assistant", "refusal": None, "annotations": []},
                "logprobs": None,
                "stop_reason": None,
            }
        ],
        "usage": {
            "completion_tokens": 3,
            "prompt_tokens": 12,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


def test_a_text_answer_has_the_documented_shape() -> None:
    answer = build_response(text().builder, HELLO_EVENTS)
    assert (answer["id"], answer["object"], answer["model"]) == (f"cmpl-{ID}", "text_completion", "m")
    assert answer["choices"] == [
        {"finish_reason": "stop", "index": 0, "text": "Hello!", "logprobs": None, "stop_reason": None}
    ]


def test_the_chunks_of_a_chat_have_the_documented_shape() -> None:
    chunks = stream_documents(chat(stream=True, stream_options={"include_usage": True}).builder, HELLO_EVENTS)
    assert all(list(chunk)[:5] == ["id", "created", "model", "object", "choices"] for chunk in chunks)
    assert {(chunk["id"], chunk["model"], chunk["object"]) for chunk in chunks} == {
        (f"chatcmpl-{ID}", "m", "chat.completion.chunk")
    }
    assert len({chunk["created"] for chunk in chunks}) == 1
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": {"content": "Hel", "role": "assistant"}}],
        [{"index": 0, "delta": {"content": "lo!"}}],
        [{"finish_reason": "stop", "index": 0, "delta": {}}],
        [],
    ]
    assert [set(chunk) - {"id", "created", "model", "object", "choices"} for chunk in chunks] == [
        set(),
        set(),
        set(),
        {"usage"},
    ]


def test_the_chunks_of_a_text_have_the_documented_shape() -> None:
    chunks = stream_documents(text(stream=True).builder, HELLO_EVENTS)
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "text": "Hel"}],
        [{"index": 0, "text": "lo!"}],
        [{"finish_reason": "stop", "index": 0, "text": ""}],
    ]


def test_a_stream_reports_usage_only_on_request() -> None:
    for options in (None, {}, {"include_usage": False}, {"include_usage": None}):
        chunks = stream_documents(chat(stream=True, stream_options=options).builder, HELLO_EVENTS)
        assert not any("usage" in chunk for chunk in chunks)


def test_a_stream_ends_with_done() -> None:
    assert chat(stream=True).builder.terminator() == (DONE,)


def test_an_engine_that_ends_without_usage_has_failed() -> None:
    builder = chat().builder
    stream_documents(builder, HELLO_EVENTS[:-1])
    with pytest.raises(EngineFailed):
        builder.build()


CALL: list[Event] = [
    ReasoningDelta(0, "Hm", [1]),
    ToolCallDelta(index=0, call_index=0, arguments="", token_ids=[2], id="call_0", name="now"),
    ToolCallDelta(index=0, call_index=0, arguments='{"zone":"UTC"}', token_ids=[3]),
    Finished(0, "tool_calls"),
    Usage(12, 4, 0, 1),
]


def test_reasoning_and_tool_calls_use_the_fields_of_litellm_and_vllm() -> None:
    answer = build_response(chat().builder, CALL)
    function = {"name": "now", "arguments": '{"zone":"UTC"}'}
    assert answer["choices"] == [
        {
            "finish_reason": "tool_calls",
            "index": 0,
            "message": {
                "content": None,
                "role": "assistant",
                "refusal": None,
                "annotations": [],
                "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
                "reasoning_content": "Hm",
            },
            "logprobs": None,
            "stop_reason": None,
        }
    ]
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 1}


def test_a_streamed_call_begins_with_its_name_and_the_first_chunk_has_the_role() -> None:
    function = {"name": "now", "arguments": ""}
    named = {"index": 0, "id": "call_0", "type": "function", "function": function}
    chunks = stream_documents(chat(stream=True).builder, CALL[1:])
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": {"role": "assistant", "tool_calls": [named]}}],
        [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"zone":"UTC"}'}}]}}],
        [{"finish_reason": "tool_calls", "index": 0, "delta": {}}],
    ]
    [reasoning_chunk, *_] = stream_documents(chat(stream=True).builder, CALL)
    assert reasoning_chunk["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": "", "reasoning_content": "Hm"}}
    ]


LOGPROB_EVENTS: list[Event] = [
    Delta(0, "é", [], [TokenLogprobs(1, b"\xc3", None, []), TokenLogprobs(2, b"\xa9", -0.5, [])]),
    Delta(0, "ab", [3], [TokenLogprobs(3, b"ab", -1.5, [TopLogprob(4, b" ", -0.5), TopLogprob(3, b"ab", -1.5)])]),
    Finished(0, "stop"),
    Usage(2, 2, 0),
]


def test_a_texts_log_probabilities_are_lists_with_the_offsets_of_its_tokens() -> None:
    [choice] = build_response(text(logprobs=2, echo=True).builder, LOGPROB_EVENTS)["choices"]
    assert choice["text"] == "éab"
    assert choice["logprobs"] == {
        "tokens": ["\ufffd", "\ufffd", "ab"],
        "token_logprobs": [None, -0.5, -1.5],
        "top_logprobs": [None, {"\ufffd": -0.5}, {" ": -0.5, "ab": -1.5}],
        "text_offset": [0, 0, 1],
    }


def test_a_texts_chunks_have_the_log_probabilities_of_their_own_tokens() -> None:
    first, second, end = stream_documents(text(logprobs=2, echo=True, stream=True).builder, LOGPROB_EVENTS)
    assert first["choices"][0]["logprobs"]["text_offset"] == [0, 0]
    assert second["choices"][0]["logprobs"] == {
        "tokens": ["ab"],
        "token_logprobs": [-1.5],
        "top_logprobs": [{" ": -0.5, "ab": -1.5}],
        "text_offset": [1],
    }
    assert "logprobs" not in end["choices"][0]


def test_chat_logprobs_have_the_bytes_of_each_token() -> None:
    [choice] = build_response(chat(logprobs=True, top_logprobs=2).builder, LOGPROB_EVENTS[1:])["choices"]
    top = [
        {"token": " ", "logprob": -0.5, "bytes": [32]},
        {"token": "ab", "logprob": -1.5, "bytes": [97, 98]},
    ]
    token = {"token": "ab", "logprob": -1.5, "bytes": [97, 98], "top_logprobs": top}
    assert choice["logprobs"] == {"content": [token], "refusal": None}


@pytest.mark.parametrize("shown", ["", "a"])
def test_tokens_without_text_have_logprobs(shown: str) -> None:
    events: list[Event] = [
        Delta(0, shown, [1], [TokenLogprobs(1, b"a", -1.0, [])]),
        Finished(0, "stop"),
        Usage(1, 1, 0),
    ]
    [chunk, _] = stream_documents(chat(logprobs=True, stream=True).builder, events)
    assert chunk["choices"][0]["delta"]["content"] == shown
    assert len(chunk["choices"][0]["logprobs"]["content"]) == 1


def test_an_empty_choice_has_no_logprobs() -> None:
    silent: list[Event] = [Finished(0, "stop"), Usage(1, 1, 0)]
    assert build_response(chat(logprobs=True).builder, silent)["choices"][0]["logprobs"]["content"] == []
    assert build_response(text(logprobs=0).builder, silent)["choices"][0]["logprobs"]["tokens"] == []


def test_names_and_texts_are_written_as_utf_8() -> None:
    builder = chat(model="модель").builder
    [[chunk, _]] = builder.feed(Delta(0, "日本\n", [1]))
    assert "модель" in chunk.decode()
    assert "日本\\n" in chunk.decode()
    assert b"\n" not in chunk
