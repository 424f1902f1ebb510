"""Requests to the empower dialect, decoded, and its errors."""

import json
from typing import Any

import pytest

from dragoman.core.errors import (
    BadRequest,
    DragomanError,
)
from dragoman.core.request import ChatPrompt, GenerationRequest, Message
from dragoman.dialects.http.codec import DecodedRequest
from dragoman.dialects.vendors.empower import codec, errors
from tests.support.dialects.decode_contexts import decode_context

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
HI = ChatPrompt(messages=(Message(role="user", content="Hi"),))
WEATHER: dict[str, Any] = {"type": "function", "function": {"name": "get_weather"}}


def chat(**fields: object) -> DecodedRequest:
    return codec.decode_chat(json.dumps(HELLO | fields).encode(), decode_context())


def request(**fields: object) -> GenerationRequest:
    [only] = chat(**fields).requests
    return only


def rendered(error: DragomanError) -> tuple[int, dict[str, Any]]:
    reply = errors.EmpowerErrors().render(error)
    return reply.status, json.loads(reply.body)["error"]


def refusal(body: dict[str, Any], *without: str) -> tuple[str, str, str]:
    """Return message, param and code of the answer to a chat request that is rejected."""
    with pytest.raises(BadRequest) as caught:
        codec.decode_chat(
            json.dumps({name: body[name] for name in body if name not in without}).encode(), decode_context()
        )
    status, error = rendered(caught.value)
    assert (status, error["type"]) == (400, "invalid_request_error")
    return error["message"], error["param"], error["code"]
