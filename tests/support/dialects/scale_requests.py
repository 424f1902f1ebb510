"""Requests to the scale dialect, decoded."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from dragoman.core.errors import (
    BadRequest,
)
from dragoman.core.request import ChatPrompt
from dragoman.dialects.http.codec import DecodedRequest
from dragoman.dialects.vendors.scale import codec, errors
from tests.support.dialects.decode_contexts import decode_context


def deployment_chat(**fields: object) -> DecodedRequest:
    body = {"chat_history": [], "prompt": "Hi"} | fields
    return codec.decode_deployment_chat(json.dumps(body).encode(), decode_context(deployment="m"))


def deployment_text(**fields: object) -> DecodedRequest:
    return codec.decode_deployment_text(
        json.dumps({"prompt": "Once"} | fields).encode(), decode_context(deployment="m")
    )


def chat(**fields: object) -> DecodedRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | fields
    return codec.decode_chat(json.dumps(body).encode(), decode_context())


def text(**fields: object) -> DecodedRequest:
    return codec.decode_text(json.dumps({"model": "m", "prompt": "Once"} | fields).encode(), decode_context())


def messages(call: DecodedRequest) -> list[tuple[str, str]]:
    prompt = call.requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    return [(message.role, message.text) for message in prompt.messages]


def details(route: Callable[..., DecodedRequest], /, **fields: object) -> list[dict[str, Any]]:
    with pytest.raises(BadRequest) as caught:
        route(**fields)
    reply = errors.ScaleErrors().render(caught.value)
    assert reply.status == 422
    found: list[dict[str, Any]] = json.loads(reply.body)["detail"]
    return found
