"""Decoding the bodies of requests, without a server."""

import json
from typing import Any

import pytest

from dragoman.core.errors import (
    EngineFailed,
)
from dragoman.core.events import Delta, Event, Finished, Usage
from dragoman.core.request import ChatPrompt, GenerationRequest, Message, SamplingParams
from dragoman.dialects.http.sse import DONE
from dragoman.dialects.http.validation import MalformedJson
from dragoman.dialects.vendors.empower import codec, wire
from tests.support.dialects.decode_contexts import ID, decode_context
from tests.support.dialects.empower_requests import HELLO, HI, WEATHER, chat, refusal, rendered, request

GREETING: list[Event] = [
    Delta(0, "Hel", [1]),
    Delta(1, "", [2]),
    Delta(0, "lo", [3]),
    Finished(1, "length"),
    Finished(0, "stop"),
    Usage(12, 3, 2),
]


GREETING_USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 3,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 2},
}


def sampling(**fields: object) -> SamplingParams:
    return request(**fields).sampling


def test_the_defaults_are_the_services() -> None:
    assert chat().requests == [GenerationRequest(model="m", prompt=HI, sampling=SamplingParams(max_tokens=256), n=1)]
    assert not chat().stream


def test_null_equals_absent_in_every_optional_field() -> None:
    optional = [name for name in wire.ChatRequest.__struct_fields__ if name not in HELLO]
    assert len(optional) == 11
    assert chat(**dict.fromkeys(optional)).requests == chat().requests


@pytest.mark.parametrize("field", ["messages", "model"])
@pytest.mark.parametrize("null", [True, False])
def test_a_required_field_that_is_absent_or_null_is_missing(field: str, null: bool) -> None:
    reported = refusal(HELLO | {field: None}) if null else refusal(HELLO, field)
    assert reported == (f"Missing required parameter: '{field}'", field, "missing_required_parameter")


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [("frequency_penalty", -2, 2), ("presence_penalty", -2, 2), ("temperature", 0, 2), ("top_p", 0, 1)],
)
def test_a_number_has_inclusive_bounds(field: str, low: int, high: int) -> None:
    for inside in (low, high, high / 3):
        assert getattr(sampling(**{field: inside}), field) == inside
    for outside in (low - 0.5, high + 0.5):
        message = f"'{field}' must be between {low} and {high}, got {outside:g}"
        assert refusal(HELLO | {field: outside}) == (message, field, "invalid_value")
    for wrong in ("1", True, [1]):
        assert refusal(HELLO | {field: wrong}) == (f"'{field}' must be a number", field, "invalid_type")


def test_the_message_for_a_value_out_of_range_is_the_documented_one() -> None:
    message = "'temperature' must be between 0 and 2, got 3"
    assert refusal(HELLO | {"temperature": 3}) == (message, "temperature", "invalid_value")


def test_max_tokens_is_at_least_1() -> None:
    assert [sampling(max_tokens=sent).max_tokens for sent in (1, 7000, 40.0)] == [1, 7000, 40]
    message = "'max_tokens' must be at least 1, got 0"
    assert refusal(HELLO | {"max_tokens": 0}) == (message, "max_tokens", "invalid_value")


@pytest.mark.parametrize("sent", [2**31, 2**64, 2**70])
def test_max_tokens_has_no_upper_bound_but_is_capped_for_the_engine(sent: int) -> None:
    assert sampling(max_tokens=sent).max_tokens == 2**31 - 1


def test_n_is_between_1_and_16() -> None:
    assert [request(n=sent).n for sent in (1, 16, 2.0)] == [1, 16, 2]
    for sent in (0, 17):
        assert refusal(HELLO | {"n": sent}) == (f"'n' must be between 1 and 16, got {sent}", "n", "invalid_value")


@pytest.mark.parametrize("field", ["n", "max_tokens"])
@pytest.mark.parametrize("wrong", ["1", 1.5, True])
def test_an_integer_is_nothing_else(field: str, wrong: object) -> None:
    assert refusal(HELLO | {field: wrong}) == (f"'{field}' must be an integer", field, "invalid_type")


@pytest.mark.parametrize("field", ["ignore_eos", "stream"])
@pytest.mark.parametrize("wrong", ["true", 1, 0])
def test_a_boolean_is_nothing_else(field: str, wrong: object) -> None:
    assert refusal(HELLO | {field: wrong}) == (f"'{field}' must be a boolean", field, "invalid_type")


def test_booleans_are_accepted() -> None:
    assert chat(stream=True).stream
    assert sampling(ignore_eos=True).ignore_eos


def test_a_model_is_a_string() -> None:
    assert refusal(HELLO | {"model": 5}) == ("'model' must be a string", "model", "invalid_type")


def test_undocumented_fields_are_ignored_with_any_value() -> None:
    ignored = {"stop": 5, "seed": "x", "logprobs": 7, "top_k": -9, "repetition_penalty": 0, "response_format": 1}
    assert chat(**ignored).requests == chat().requests


def test_the_turns_of_a_conversation_reach_the_model_unchanged() -> None:
    turns = [
        {"role": "developer", "content": "Be brief"},
        {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}], "name": "Ann"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": ""},
    ]
    assert request(messages=turns).prompt == ChatPrompt(
        messages=(
            Message(role="system", content="Be brief"),
            Message(role="user", content="Hi", name="Ann"),
            Message(role="assistant", content="Hello"),
            Message(role="user", content=""),
        )
    )


def test_a_string_is_one_user_message() -> None:
    assert chat(messages="Hi").requests == chat().requests


def test_each_string_of_an_array_is_a_prompt_of_its_own() -> None:
    assert [sent.prompt for sent in chat(messages=["Hi"]).requests] == [HI]
    texts = [f"{number}" for number in range(16)]
    requests = chat(messages=texts, n=3, temperature=0).requests
    assert [sent.prompt for sent in requests] == [
        ChatPrompt(messages=(Message(role="user", content=text),)) for text in texts
    ]
    assert all((sent.n, sent.sampling.temperature) == (3, 0) for sent in requests)


@pytest.mark.parametrize(
    ("wrong", "message", "code"),
    [
        ([], "'messages' must have at least 1 items, got 0", "invalid_value"),
        (["x"] * 17, "'messages' must have at most 16 strings, got 17", "invalid_value"),
        (5, "'messages' must be a string or an array", "invalid_type"),
        ({}, "'messages' must be a string or an array", "invalid_type"),
        ([5], "'messages[0]' must be a string or an object", "invalid_type"),
        (["x", 5], "'messages[1]' must be a string or an object", "invalid_type"),
        (
            ["x", {"role": "user", "content": "y"}],
            "'messages' must be an array of strings or an array of objects",
            "invalid_type",
        ),
        (
            [{"role": "user", "content": "y"}, "x"],
            "'messages' must be an array of strings or an array of objects",
            "invalid_type",
        ),
        ([{"content": "x"}], "Missing required parameter: 'messages[0].role'", "missing_required_parameter"),
        ([{"role": "user", "content": 5}], "'messages[0].content' must be a string or an array", "invalid_type"),
        ([{"role": "user"}], "Missing required parameter: 'messages[0].content'", "missing_required_parameter"),
        (
            [{"role": "user", "content": None}],
            "Missing required parameter: 'messages[0].content'",
            "missing_required_parameter",
        ),
        (
            [{"role": "bot", "content": "x"}],
            "'messages[0].role' must be one of assistant, developer, system, tool, user, got 'bot'",
            "invalid_value",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://host/a.png"}}]}],
            "'messages[0].content[0].type': This model takes text only, got type 'image_url'",
            "invalid_value",
        ),
        (
            [{"role": "user", "content": "x", "tool_calls": [{"id": "call_0", **WEATHER}]}],
            "'messages[0].tool_calls': Only an assistant's message has tool calls",
            "invalid_value",
        ),
    ],
)
def test_messages_of_another_shape_are_rejected(wrong: object, message: str, code: str) -> None:
    refused = refusal(HELLO | {"messages": wrong})
    assert refused[1:] == ("messages", code)
    assert message in refused[0]


def test_only_the_first_violation_is_reported() -> None:
    wrong: dict[str, Any] = {
        "stream_options": 5,
        "tool_choice": "some",
        "tools": 5,
        "top_p": 2,
        "temperature": "x",
        "stream": 1,
        "n": 0,
        "max_tokens": 0,
        "ignore_eos": 5,
        "presence_penalty": 3,
        "frequency_penalty": 3,
        "model": 5,
        "messages": ["x", {"role": "user", "content": "y"}],
    }
    reported = []
    while wrong:
        reported.append(refusal(wrong | {name: HELLO[name] for name in HELLO if name not in wrong})[1])
        del wrong[reported[-1]]
    assert reported == list(wire.ChatRequest.__struct_fields__)


@pytest.mark.parametrize("body", [b"", b"{", b"{'model': 'm'}", b'{"n": NaN}', b"model=m", b"\xff", b'{"n": 1e999}'])
def test_a_body_that_is_not_json_is_rejected(body: bytes) -> None:
    for decode in (lambda body: codec.decode_chat(body, decode_context()), codec.decode_adapter):
        with pytest.raises(MalformedJson) as caught:
            decode(body)
        message = "Request body is not valid JSON"
        assert rendered(caught.value) == (
            400,
            {"message": message, "type": "invalid_request_error", "param": None, "code": None},
        )


@pytest.mark.parametrize("body", [b"[]", b"5", b"null", b'"{}"'])
def test_json_that_is_not_an_object_is_rejected(body: bytes) -> None:
    with pytest.raises(MalformedJson) as caught:
        codec.decode_chat(body, decode_context())
    error = rendered(caught.value)[1]
    assert (error["message"], error["param"], error["code"]) == ("Request body must be a JSON object", None, None)


def test_an_answer_has_every_choice_and_the_usage_of_all() -> None:
    call = chat()
    for event in GREETING:
        list(call.builder.feed(event))
    answer = json.loads(call.builder.build())
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "id": f"chatcmpl-{ID}",
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None, "annotations": []},
                "finish_reason": "stop",
                "logprobs": None,
            },
            {
                "index": 1,
                "message": {"role": "assistant", "content": "", "refusal": None, "annotations": []},
                "finish_reason": "length",
                "logprobs": None,
            },
        ],
        "usage": GREETING_USAGE,
    }


def test_an_engine_that_ends_without_usage_has_failed() -> None:
    call = chat()
    list(call.builder.feed(Delta(0, "Hel", [1])))
    with pytest.raises(EngineFailed):
        call.builder.build()


@pytest.mark.parametrize("include_usage", [True, False, None])
def test_in_a_stream_each_choice_has_its_own_role_and_end(include_usage: bool | None) -> None:
    builder = chat(stream=True, stream_options={"include_usage": include_usage}).builder
    chunks = [json.loads(sent.data) for event in GREETING for sent in builder.feed(event)]
    assert {(chunk["id"], chunk["object"], chunk["model"]) for chunk in chunks} == {
        (f"chatcmpl-{ID}", "chat.completion.chunk", "m")
    }
    assert len({chunk["created"] for chunk in chunks}) == 1
    if include_usage:
        usage = chunks.pop()
        assert (usage["choices"], usage["usage"]) == ([], GREETING_USAGE)
    assert not any("usage" in chunk for chunk in chunks)
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": index, "delta": delta, "finish_reason": reason, "logprobs": None}]
        for index, delta, reason in [
            (0, {"role": "assistant", "content": ""}, None),
            (0, {"content": "Hel"}, None),
            (0, {"content": "lo"}, None),
            (1, {"role": "assistant", "content": ""}, None),
            (1, {}, "length"),
            (0, {}, "stop"),
        ]
    ]
    assert builder.terminator() == (DONE,)
