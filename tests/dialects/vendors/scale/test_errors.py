"""Errors and API keys of this dialect."""

import json

import pytest
from starlette.datastructures import Headers

from dragoman.core.errors import (
    BadRequest,
    BodyTooLarge,
    ContextOverflow,
    DragomanError,
    EngineFailed,
    ModelLoading,
    ModelNotFound,
    Overloaded,
    ShuttingDown,
    Unauthenticated,
)
from dragoman.dialects.http import sse
from dragoman.dialects.http.truncation import PromptTooLong
from dragoman.dialects.http.validation import MalformedJson
from dragoman.dialects.vendors.scale import codec, errors
from tests.support.dialects.scale_requests import chat, deployment_chat


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, None),
        ({"x-api-key": ""}, None),
        ({"x-api-key": "k"}, "k"),
        ({"X-Api-Key": " k "}, "k"),
        ({"authorization": "Bearer k"}, "k"),
        ({"authorization": "bearer  k"}, "k"),
        ({"authorization": "Bearer "}, None),
        ({"x-api-key": "", "authorization": "Bearer k"}, "k"),
        ({"x-api-key": "k", "authorization": "Bearer other"}, "k"),
        ({"x-api-key": "k", "authorization": "Basic other"}, "k"),
    ],
)
def test_the_key_comes_from_its_own_header_or_else_from_authorization(headers: dict[str, str], key: str | None) -> None:
    assert codec.read_key(Headers(headers)) == key


def test_another_scheme_of_authorization_is_malformed() -> None:
    with pytest.raises(Unauthenticated) as caught:
        codec.read_key(Headers({"authorization": "Basic dXNlcjpwYXNz"}))
    assert caught.value.fault == "malformed"


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (MalformedJson("any"), 400, "Request body is not valid JSON"),
        (ContextOverflow(9, 8, "Shorten it."), 400, ContextOverflow(9, 8, "Shorten it.").message),
        (
            PromptTooLong(9000, 100, 8192),
            400,
            "The prompt has 9000 tokens and max_tokens is 100; the model's context length is 8192 tokens",
        ),
        (Unauthenticated("missing"), 401, "Missing API key"),
        (Unauthenticated("malformed").with_key("k"), 401, "Invalid API key"),
        (Unauthenticated("unknown").with_key("k"), 401, "Invalid API key"),
        (ModelNotFound("a/b"), 404, "Model deployment 'a/b' not found"),
        (BodyTooLarge(10485760), 413, "Request body is larger than 10485760 bytes"),
        (EngineFailed("secret"), 500, "An internal server error occurred"),
        (Overloaded("any", 5), 503, "The server is overloaded, retry in 5 seconds"),
        (ModelLoading("any", 7), 503, "The server is overloaded, retry in 7 seconds"),
        (ShuttingDown("any", 0), 503, "The server is overloaded, retry in 1 seconds"),
    ],
)
def test_errors_have_their_status_and_text(error: DragomanError, status: int, detail: str) -> None:
    reply = errors.ScaleErrors().render(error)
    assert (reply.status, json.loads(reply.body)) == (status, {"detail": detail})
    assert reply.headers.get("retry-after") == (str(error.retry_after) if isinstance(error, Overloaded) else None)
    assert sse.frame(errors.ScaleErrors().render_event(error)) == b"event: error\ndata: " + reply.body + b"\n\n"


def test_the_engines_messages_field_is_mapped_to_chat_history() -> None:
    assert deployment_chat().field_names == {"messages": "chat_history"}
    assert chat().field_names == {}


def test_a_template_error_names_its_field() -> None:
    error = BadRequest("line 3: unexpected 'end'", "chat_template")
    reply = errors.ScaleErrors().render(error)
    detail = {"loc": ["body", "chat_template"], "msg": error.message, "type": "value_error"}
    assert (reply.status, json.loads(reply.body)) == (422, {"detail": [detail]})
