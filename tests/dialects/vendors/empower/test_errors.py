"""Errors of this dialect."""

import json

import pytest

from dragoman.core.errors import (
    AdapterMissing,
    BadRequest,
    BodyTooLarge,
    ContextOverflow,
    DragomanError,
    EngineFailed,
    ModelLoading,
    ModelNameTaken,
    ModelNotFound,
    Overloaded,
    ShuttingDown,
    Unauthenticated,
)
from dragoman.dialects.http import sse
from dragoman.dialects.vendors.empower import errors


@pytest.mark.parametrize(
    ("error", "status", "message", "kind", "parameter", "code"),
    [
        (BadRequest("odd"), 400, "odd", "invalid_request_error", None, "invalid_value"),
        (BadRequest("empty", "messages"), 400, "empty", "invalid_request_error", "messages", "invalid_value"),
        (
            ContextOverflow(9000, 8192, "Shorten it."),
            400,
            "The prompt has 9000 tokens; the model's context length is 8192 tokens, "
            "and an answer needs at least one of them. Shorten it.",
            "invalid_request_error",
            "messages",
            "context_length_exceeded",
        ),
        (Unauthenticated("missing"), 401, "No API key provided", "authentication_error", None, "missing_api_key"),
        (
            Unauthenticated("malformed"),
            401,
            "Authorization header must have the form: Bearer <token>",
            "authentication_error",
            None,
            "invalid_api_key",
        ),
        (Unauthenticated("unknown"), 401, "Invalid API key", "authentication_error", None, "invalid_api_key"),
        (ModelNotFound("m"), 404, "Model 'm' not found", "invalid_request_error", "model", "model_not_found"),
        (BodyTooLarge(10), 413, "Request body is larger than 10 bytes", "invalid_request_error", None, None),
        (EngineFailed("secret"), 500, "An internal error occurred", "server_error", None, None),
        (DragomanError("secret"), 500, "An internal error occurred", "server_error", None, None),
        (ModelNameTaken("m"), 400, "A model named 'm' already exists", "invalid_request_error", "name", "name_taken"),
        (AdapterMissing("gone"), 400, "gone", "invalid_request_error", "model_name", "model_not_available"),
        *(
            (error, 503, "The server is overloaded, retry in 5 seconds", "server_error", None, "overloaded")
            for error in (Overloaded("full", 5), ModelLoading("loading", 5), ShuttingDown("draining", 5))
        ),
    ],
)
def test_every_error_has_its_status_and_its_frame(
    error: DragomanError, status: int, message: str, kind: str, parameter: str | None, code: str | None
) -> None:
    reply = errors.EmpowerErrors().render(error)
    body = {"error": {"message": message, "type": kind, "param": parameter, "code": code}}
    assert (reply.status, json.loads(reply.body)) == (status, body)
    frame = sse.frame(errors.EmpowerErrors().render_event(error))
    assert frame == b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def test_overloads_have_retry_after_and_bad_keys_www_authenticate() -> None:
    reply = errors.EmpowerErrors().render
    assert reply(ModelLoading("loading", 2)).headers == {"retry-after": "2"}
    assert reply(Unauthenticated("missing")).headers == {"www-authenticate": "Bearer"}
    assert reply(EngineFailed("secret")).headers == {}
