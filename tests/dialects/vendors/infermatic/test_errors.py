"""Errors of this dialect."""

import json
from collections.abc import Iterator

import pytest

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
)
from dragoman.dialects.http import sse
from dragoman.dialects.http.validation import InvalidFields, MalformedJson, MissingField, Violation
from dragoman.dialects.vendors.infermatic.errors import InfermaticErrors


def error_rows() -> Iterator[tuple[DragomanError, int, str, str, str]]:
    bad = "bad_request_error"
    yield MalformedJson("Invalid JSON in request body"), 400, "Invalid JSON in request body", bad, "None"
    missing = InvalidFields([Violation(("model",), MissingField())])
    yield missing, 400, "Missing required parameter: 'model'", bad, "model"
    range_message = "temperature must be between 0 and 2, got 3"
    yield BadRequest(range_message, "temperature"), 400, f"litellm.BadRequestError: {range_message}", bad, "temperature"
    yield BadRequest("no"), 400, "litellm.BadRequestError: no", bad, "None"
    unknown = (
        "/chat/completions: Invalid model name passed in model=foo. "
        "Call `/v1/models` to view available models for your key."
    )
    yield ModelNotFound("foo"), 400, unknown, "None", "None"
    yield BodyTooLarge(10485760), 413, "Request body is larger than 10485760 bytes", bad, "None"
    internal = "litellm.InternalServerError: An internal error occurred"
    yield EngineFailed("An internal error occurred"), 500, internal, "internal_server_error", "None"


@pytest.mark.parametrize(("error", "status", "message", "kind", "parameter"), list(error_rows()))
def test_errors_use_litellms_envelope(
    error: DragomanError, status: int, message: str, kind: str, parameter: str
) -> None:
    codec = InfermaticErrors("/chat/completions", "messages")
    reply = codec.render(error)
    expected = {"error": {"message": message, "type": kind, "param": parameter, "code": str(status)}}
    assert (reply.status, json.loads(reply.body), reply.headers) == (status, expected, {})
    assert sse.frame(codec.render_event(error)) == b"data: " + reply.body + b"\n\n"


@pytest.mark.parametrize("parameter", ["messages", "prompt"])
def test_a_context_overflow_names_the_prompts_field(parameter: str) -> None:
    reply = InfermaticErrors("/completions", parameter).render(ContextOverflow(9000, 8192, "Shorten it."))
    detail = json.loads(reply.body)["error"]
    assert (reply.status, detail["type"], detail["param"]) == (400, "bad_request_error", parameter)
    # LiteLLM's and LangChain's libraries recognise the error by words of both sentences.
    assert detail["message"].startswith(
        "litellm.ContextWindowExceededError: This model's maximum context length is 8192 tokens. "
        "The prompt has 9000 tokens"
    )


@pytest.mark.parametrize("error", [Overloaded("Too many", 7), ModelLoading("Loading", 7)])
def test_an_overload_returns_429_with_retry_after(error: Overloaded) -> None:
    reply = InfermaticErrors("/completions", "prompt").render(error)
    detail = json.loads(reply.body)["error"]
    assert (reply.status, reply.headers, detail["code"]) == (429, {"retry-after": "7"}, "429")
    assert detail["message"].startswith("No deployments available for selected model, Try again in 7 seconds")


def test_a_server_that_shuts_down_returns_503() -> None:
    reply = InfermaticErrors("/completions", "prompt").render(ShuttingDown("The server is shutting down", 7))
    detail = json.loads(reply.body)["error"]
    assert (reply.status, reply.headers, detail["code"]) == (503, {"retry-after": "7"}, "503")
    assert detail["message"] == "litellm.ServiceUnavailableError: The server is shutting down"


def test_retry_after_is_at_least_one_second() -> None:
    reply = InfermaticErrors("/completions", "prompt").render(Overloaded("Too many", 0))
    assert reply.headers == {"retry-after": "1"}
