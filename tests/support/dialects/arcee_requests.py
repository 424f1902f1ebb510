"""Requests to the arcee dialect, decoded, and its errors."""

import json
from typing import Any

import pytest

from dragoman.core.errors import (
    DragomanError,
)
from dragoman.core.models import ServedModel
from dragoman.core.request import (
    GenerationRequest,
)
from dragoman.dialects.http.codec import DecodedRequest
from dragoman.dialects.vendors.arcee import codec, errors
from tests.support.dialects.decode_contexts import decode_context

HELLO: dict[str, Any] = {"model": "parrot", "messages": [{"role": "user", "content": "Hi"}]}
MODELS = [
    ServedModel(id="echo", aliases=("parrot", "acme/echo"), context_length=8192),
    ServedModel(id="other", aliases=(), context_length=None),
]
ERRORS = errors.ArceeErrors()
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def decode(body: bytes) -> DecodedRequest:
    return codec.decode_chat(body, decode_context(MODELS))


def call(**fields: object) -> DecodedRequest:
    return decode(json.dumps(HELLO | fields).encode())


def request(**fields: object) -> GenerationRequest:
    [only] = call(**fields).requests
    return only


def rendered(error: DragomanError) -> tuple[int, Any]:
    reply = ERRORS.render(error)
    body = json.loads(reply.body)
    assert list(body) == ["detail"]
    return reply.status, body["detail"]


def refusal_of(body: bytes) -> tuple[int, Any]:
    with pytest.raises(DragomanError) as caught:
        decode(body)
    return rendered(caught.value)


def refusal(**fields: object) -> tuple[int, Any]:
    return refusal_of(json.dumps(HELLO | fields).encode())


def entry(message: str, kind: str, *path: str | int) -> dict[str, object]:
    return {"loc": ["body", *path], "msg": message, "type": kind}


def user(content: object, **more: object) -> dict[str, object]:
    return {"role": "user", "content": content} | more
