"""The documents of the four completion routes, streamed and whole."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from dragoman.core.errors import EngineFailed
from dragoman.core.events import Delta, Event, Finished, TokenLogprobs, TopLogprob, Usage
from dragoman.dialects.http.codec import DecodedRequest
from dragoman.dialects.vendors.scale import codec
from tests.support.dialects.cases import build_response, stream_documents
from tests.support.dialects.decode_contexts import decode_context

ANSWER: list[Event] = [
    Delta(0, "Hel", [1]),
    Delta(0, "", [2]),
    Delta(0, "lo", [3]),
    Finished(0, "stop"),
    Usage(5, 3, 0),
]


def deployment_chat(**fields: object) -> DecodedRequest:
    body = {"chat_history": [], "prompt": "Hi"} | fields
    return codec.decode_deployment_chat(json.dumps(body).encode(), decode_context(deployment="m"))


def deployment_text(**fields: object) -> DecodedRequest:
    return codec.decode_deployment_text(
        json.dumps({"prompt": "Once"} | fields).encode(), decode_context(deployment="m")
    )


def chat() -> DecodedRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    return codec.decode_chat(json.dumps(body).encode(), decode_context())


def text() -> DecodedRequest:
    return codec.decode_text(json.dumps({"model": "m", "prompt": "Once"}).encode(), decode_context())


def documents(call: DecodedRequest) -> tuple[list[Any], Any]:
    """Return the events of the stream, and the whole answer."""
    pieces = [json.loads(sent.data) for event in ANSWER for sent in call.builder.feed(event)]
    assert call.builder.terminator() == ()
    return pieces, json.loads(call.builder.build())


@pytest.mark.parametrize("route", [deployment_chat, deployment_text])
def test_the_events_of_a_deployment_have_the_shape_of_its_answer(route: Callable[..., DecodedRequest]) -> None:
    def body(text: str, reason: str | None, prompt_tokens: int, response_tokens: int) -> dict[str, Any]:
        return {
            "completions": [["Say", [text]]],
            "choices": None,
            "finish_reason": reason,
            "prompt_tokens": prompt_tokens,
            "response_tokens": response_tokens,
        }

    pieces, whole = documents(route(prompt="Say"))
    assert pieces == [body("Hel", None, 0, 0), body("lo", None, 0, 0), body("", "stop", 5, 3)]
    assert whole == body("Hello", "stop", 5, 3)
    assert list(whole) == ["completions", "choices", "finish_reason", "prompt_tokens", "response_tokens"]


def test_the_events_of_a_chat_have_the_shape_of_its_answer() -> None:
    def body(text: str, reason: str | None, usage: dict[str, int] | None) -> dict[str, Any]:
        completion = {"message": {"role": "assistant", "content": text}, "finish_reason": reason}
        return {"chat_completion": completion, "token_usage": usage}

    counts = {"prompt": 5, "completion": 3, "total": 8}
    pieces, whole = documents(chat())
    assert pieces == [body("Hel", None, None), body("lo", None, None), body("", "stop", counts)]
    assert whole == body("Hello", "stop", counts)


def test_the_events_of_a_text_have_the_shape_of_its_answer() -> None:
    def body(text: str, reason: str | None, usage: dict[str, int] | None) -> dict[str, Any]:
        completion = {"text": text, "finish_reason": reason, "response_metadata": None}
        return {"completion": completion, "token_usage": usage}

    counts = {"prompt": 5, "completion": 3, "total": 8}
    pieces, whole = documents(text())
    assert pieces == [body("Hel", None, None), body("lo", None, None), body("", "stop", counts)]
    assert whole == body("Hello", "stop", counts)


def test_an_answer_without_usage_is_the_engines_failure() -> None:
    builder = chat().builder
    for event in ANSWER[:-1]:
        list(builder.feed(event))
    with pytest.raises(EngineFailed):
        builder.build()


@pytest.mark.parametrize("route", [deployment_chat, deployment_text])
def test_choices_have_the_log_probabilities_of_the_same_documents_text(route: Callable[..., DecodedRequest]) -> None:
    def choices(*letters: str) -> list[Any]:
        content = [
            {
                "token": letter,
                "logprob": -0.5,
                "bytes": [ord(letter)],
                "top_logprobs": [{"token": "x", "logprob": -0.1, "bytes": [120]}],
            }
            for letter in letters
        ]
        return [{"index": 0, "logprobs": {"content": content}}]

    def token_logprobs(letter: str) -> TokenLogprobs:
        return TokenLogprobs(1, letter.encode(), -0.5, [TopLogprob(2, b"x", -0.1)])

    events = [
        Delta(0, "a", [1], [token_logprobs("a")]),
        Delta(0, "bc", [2, 3], [token_logprobs("b"), token_logprobs("c")]),
        *ANSWER[-2:],
    ]
    builder = route(logprobs=True, top_logprobs=1).builder
    assert [piece["choices"] for piece in stream_documents(builder, events)] == [choices("a"), choices("b", "c"), None]
    assert json.loads(builder.build())["choices"] == choices("a", "b", "c")


def test_an_empty_choice_has_no_logprobs() -> None:
    assert build_response(deployment_chat(logprobs=True).builder, ANSWER[-2:])["choices"] == [
        {"index": 0, "logprobs": {"content": []}}
    ]
