"""Errors and API keys of this dialect."""

import json
from typing import Any

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
from dragoman.dialects.vendors.arcee import codec
from tests.support.dialects.arcee_requests import (
    ERRORS,
    entry,
    rendered,
)

INTERNAL = "An internal server error occurred while processing the request"


@pytest.mark.parametrize("fault", ["missing", "malformed", "unknown"])
def test_every_key_error_has_the_same_response(fault: Any) -> None:
    reply = ERRORS.render(Unauthenticated(fault).with_key("sk-0123456789abcdef"))
    assert (reply.status, reply.headers) == (401, {"www-authenticate": "Bearer"})
    assert json.loads(reply.body) == {"detail": "Authentication failed due to invalid or missing API key"}


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_bearer_keys_need_no_prefix(scheme: str) -> None:
    assert codec.read_key(Headers({"authorization": f"{scheme} sk-1"})) == "sk-1"


@pytest.mark.parametrize("headers", [{}, {"authorization": ""}, {"authorization": "Bearer "}, {"x-api-key": "sk-1"}])
def test_other_key_headers_are_ignored(headers: dict[str, str]) -> None:
    assert codec.read_key(Headers(headers)) is None


@pytest.mark.parametrize("value", ["sk-1", "Basic sk-1", "Token sk-1"])
def test_another_form_of_the_header_is_rejected(value: str) -> None:
    with pytest.raises(Unauthenticated):
        codec.read_key(Headers({"authorization": value}))


def test_a_context_overflow_names_messages() -> None:
    status, [detail] = rendered(ContextOverflow(9000, 8192, "Shorten it."))
    assert (status, detail["loc"], detail["type"]) == (422, ["body", "messages"], "value_error")
    assert detail["msg"].startswith("The prompt has 9000 tokens; the model's context length is 8192 tokens")


@pytest.mark.parametrize(
    ("error", "path"),
    [
        (BadRequest("Too odd", "logit_bias"), ["logit_bias"]),
        (BadRequest("Too odd", "response_format"), ["response_format"]),
        (BadRequest("Too odd", "tools"), ["tools"]),
        (BadRequest("Too odd"), []),
    ],
)
def test_engine_refusals_name_the_field(error: BadRequest, path: list[str]) -> None:
    assert rendered(error) == (422, [entry("Too odd", "value_error", *path)])


def test_a_body_that_is_too_large_returns_413() -> None:
    assert rendered(BodyTooLarge(10485760)) == (413, "Request body is larger than 10485760 bytes")


@pytest.mark.parametrize("kind", [Overloaded, ModelLoading, ShuttingDown])
def test_an_overload_has_retry_after(kind: type[Overloaded]) -> None:
    error = kind("secret", 5)
    assert rendered(error) == (503, "The server is overloaded, retry in 5 seconds")
    assert ERRORS.render(error).headers == {"retry-after": "5"}


def test_an_engine_failure_hides_its_message() -> None:
    assert rendered(EngineFailed("secret")) == (500, INTERNAL)


def test_an_unknown_models_error_is_the_same_from_the_gateway() -> None:
    assert rendered(ModelNotFound("foo")) == (422, [entry("Model 'foo' not found", "value_error", "model")])


@pytest.mark.parametrize(
    ("error", "kind", "code", "message"),
    [
        (EngineFailed("secret"), "server_error", 500, INTERNAL),
        (ModelLoading("secret", 2), "server_error", 503, "The server is overloaded, retry in 2 seconds"),
        (BadRequest("Too odd", "logit_bias"), "invalid_request_error", 422, "Too odd"),
    ],
)
def test_an_error_inside_a_stream_raises_in_openais_clients(
    error: DragomanError, kind: str, code: int, message: str
) -> None:
    frame = sse.frame(ERRORS.render_event(error))
    assert frame.startswith(b"data: {")
    assert frame.endswith(b"}\n\n")
    assert json.loads(frame.removeprefix(b"data: ")) == {
        "error": {"message": message, "type": kind, "code": code},
        "detail": message,
    }
