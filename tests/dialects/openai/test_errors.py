"""Errors in OpenAI's words, envelope and statuses."""

import json
from typing import Any

import pytest

from dragoman.core.errors import BadRequest, ContextOverflow, DragomanError, EngineFailed, ModelNotFound, Overloaded
from dragoman.dialects.openai.codec import decode_chat
from dragoman.dialects.openai.errors import OpenAIErrors
from tests.support.dialects.decode_contexts import decode_context

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def rendered(error: DragomanError) -> tuple[int, dict[str, Any]]:
    response = OpenAIErrors().render(error)
    return response.status, json.loads(response.body)["error"]


def refused(body: bytes | dict[str, Any]) -> tuple[int, dict[str, Any]]:
    with pytest.raises(BadRequest) as refusal:
        decode_chat(body if isinstance(body, bytes) else json.dumps(body).encode(), decode_context([]))
    return rendered(refusal.value)


@pytest.mark.parametrize(
    ("fields", "parameter", "code", "words"),
    [
        ({"messages": None}, "messages", "missing_required_parameter", "Missing required parameter: 'messages'."),
        ({"temperature": "hot"}, "temperature", "invalid_type", "expected a number"),
        ({"temperature": 3}, "temperature", "decimal_above_max_value", "Expected a value <= 2, but got 3 instead."),
        ({"n": 0}, "n", "integer_below_min_value", "Expected a value >= 1, but got 0 instead."),
        ({"messages": []}, "messages", "array_below_min_length", "array too short"),
        ({"service_tier": "gold"}, "service_tier", "invalid_value", "Invalid value: 'gold'. Supported values are:"),
        ({"stream_options": {}}, "stream_options", None, "only allowed when 'stream' is enabled"),
        ({"audio": {"voice": "x"}}, "audio", None, "audio is not supported by this server"),
        ({"functions": [{"name": "f"}]}, "functions", None, "send those"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role", "invalid_value", "'robot'"),
        ({"top_logprobs": 2}, "top_logprobs", None, "top_logprobs needs logprobs"),
        ({"seed": 2**64}, "seed", None, "64 bits"),
        ({"logit_bias": {"the": 1}}, "logit_bias", None, "token ids as keys"),
    ],
)
def test_a_wrong_field_is_named_with_openais_code(
    fields: dict[str, Any], parameter: str, code: str | None, words: str
) -> None:
    status, error = refused({**CHAT, **fields})
    assert (status, error["type"], error["param"], error["code"]) == (400, "invalid_request_error", parameter, code)
    assert words in error["message"]


def test_an_upstreams_refusal_has_its_code() -> None:
    refusal = BadRequest("It was filtered", "messages")
    refusal.code = "content_filter"
    status, detail = rendered(refusal)
    assert (status, detail["code"], detail["param"]) == (400, "content_filter", "messages")


def test_a_prompt_that_is_too_long_is_recognised_by_libraries_that_read_the_message_alone() -> None:
    _, detail = rendered(ContextOverflow(9000, 8192, "Shorten it."))
    assert "This model's maximum context length is 8192 tokens" in detail["message"], "LiteLLM"
    assert "prompt is too long" in detail["message"], "LangChain"


def test_a_body_that_is_no_json_is_refused_in_openais_words() -> None:
    status, error = refused(b"{'model': 1}")
    assert (status, error["code"]) == (400, None)
    assert error["message"] == "We could not parse the JSON body of your request."


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ModelNotFound("gpt-9"), 404, "model_not_found"),
        (ContextOverflow(9000, 8192, "Shorten it."), 400, "context_length_exceeded"),
        (Overloaded("The queue is full", 3), 503, "server_overloaded"),
        (EngineFailed("a secret"), 500, None),
    ],
)
def test_every_kind_of_error_has_openais_status_and_code(error: DragomanError, status: int, code: str | None) -> None:
    got, detail = rendered(error)
    assert (got, detail["code"]) == (status, code)
    assert "secret" not in detail["message"]
