"""Closed-loop clients of benchmarks.upstream, which check every answer: its text, its end and its count of tokens."""

import asyncio
import time
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from benchmarks.harness.connection import Connection, UnexpectedResponse, json_post
from benchmarks.harness.processes import Server

PATH = "/v1/chat/completions"

_DRAIN_TIMEOUT_SECONDS = 120
_EVENT_END = b"\n\n"
_PREFIX = b"data: "
_DONE = b"[DONE]"
_FIRST_CHARACTERS = 6
"""Of the first token, which no server cuts."""


class Target(NamedTuple):
    """What is asked, and how."""

    server: Server
    urls: Mapping[str, str]
    """By model."""
    key: str | None = None


class Expected(NamedTuple):
    """The answer that every server must give."""

    model: str
    text: str
    tokens: int
    is_stream: bool


class Received(msgspec.Struct):
    """What one server's clients have received and checked in a round."""

    seconds: list[float] = []
    """Of each answer."""
    first_token_seconds: list[float] = []
    tokens: int = 0
    bytes: int = 0


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message = msgspec.field(default_factory=_Message)
    delta: _Message = msgspec.field(default_factory=_Message)
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Document(msgspec.Struct):
    """A whole answer, or a chunk of one."""

    choices: list[_Choice]
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Document).decode


async def run_clients(target: Target, expected: Expected, clients: int, seconds: float) -> Received:
    """Run the clients, which start no request after `seconds`. Raises UnexpectedResponse for a wrong answer."""
    deadline = time.perf_counter() + seconds
    received = Received()
    try:
        async with asyncio.timeout(seconds + _DRAIN_TIMEOUT_SECONDS):
            await asyncio.gather(*(_run_client(target, expected, deadline, received) for _ in range(clients)))
    except TimeoutError:
        raise UnexpectedResponse(f"answers were missing {_DRAIN_TIMEOUT_SECONDS} seconds after the round") from None
    return received


async def _run_client(target: Target, expected: Expected, deadline: float, received: Received) -> None:
    url = target.urls[expected.model]
    request = json_post(url, PATH, _body(expected), {"Authorization": f"Bearer {target.key}"} if target.key else {})
    first_text = expected.text[:_FIRST_CHARACTERS].encode()
    pieces: list[bytes] = []
    started_at = first_at = 0.0

    def receive(piece: bytes) -> None:
        nonlocal first_at
        if not first_at and first_text in piece:
            first_at = time.perf_counter()
        pieces.append(piece)

    connection = await Connection.open(url)
    try:
        while (started_at := time.perf_counter()) < deadline:
            pieces.clear()
            first_at = 0.0
            await connection.send(request, receive)
            ended_at = time.perf_counter()
            received.seconds.append(ended_at - started_at)
            received.first_token_seconds.append((first_at or ended_at) - started_at)
            body = b"".join(pieces)
            received.bytes += len(body)
            received.tokens += _checked_tokens(body, expected)
    finally:
        connection.close()


def _body(expected: Expected) -> dict[str, object]:
    body: dict[str, object] = {
        "model": expected.model,
        "messages": [{"role": "user", "content": "How much does it cost?"}],
        "max_tokens": expected.tokens,
        "temperature": 0,
    }
    return body | ({"stream": True, "stream_options": {"include_usage": True}} if expected.is_stream else {})


def _checked_tokens(body: bytes, expected: Expected) -> int:
    """Return the tokens of an answer. Raises UnexpectedResponse unless it is the expected one, whole."""
    documents = _stream_documents(body) if expected.is_stream else [body]
    texts: list[str] = []
    reason: str | None = None
    usage: _Usage | None = None
    for document in documents:
        try:
            decoded = _decode(document)
        except msgspec.MsgspecError as error:
            raise UnexpectedResponse(f"an answer is malformed: {error}: {document[:200]!r}") from None
        usage = decoded.usage or usage
        for choice in decoded.choices:
            texts.append(choice.message.content or choice.delta.content or "")
            reason = choice.finish_reason or reason
    if (text := "".join(texts)) != expected.text:
        raise UnexpectedResponse(f"an answer has {len(text)} characters that are not those of the upstream's")
    if reason != "stop" or usage is None or usage.completion_tokens != expected.tokens:
        raise UnexpectedResponse(f"an answer ends with the reason {reason} and {usage}")
    return usage.completion_tokens


def _stream_documents(body: bytes) -> list[bytes]:
    events = [event.removeprefix(_PREFIX) for event in body.split(_EVENT_END) if event.startswith(_PREFIX)]
    if not events or events.pop() != _DONE:
        raise UnexpectedResponse(f"a stream does not end with {_DONE.decode()}")
    return events
