"""Engines of upstreams that are scripted servers of one model."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from dragoman.core.events import Event
from dragoman.core.request import ChatPrompt, GenerationRequest, Message
from dragoman.core.secret_text import SecretText
from dragoman.engines.upstream.engine import (
    UpstreamEngine,
)
from dragoman.engines.upstream.http_client import UpstreamClient
from dragoman.engines.upstream.http_request import UpstreamAddress
from dragoman.engines.upstream.kinds import KindName
from dragoman.engines.upstream.time_limits import UpstreamTimeouts
from tests.support.scripted_upstream import (
    ScriptedRequest,
    ScriptedUpstream,
    event,
    response,
    running_upstream,
)
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

KEY = "sk-upstream-0123456789"
HELLO = ChatPrompt(messages=(Message(role="user", content="Hello"),))
REQUEST = GenerationRequest(model="m", prompt=HELLO)
HELLO_TOKENS = 8 + 2
"""As they are estimated."""

MODELS = {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 100}]}

Handler = Callable[[ScriptedRequest], Awaitable[object]]


def document(value: object) -> bytes:
    """Return a response that is no stream."""
    return response(200, json.dumps(value).encode(), "content-type: application/json")


def text_chunk(text: str, **fields: Any) -> bytes:
    """Return a chunk of an answer, whose choice has these fields besides."""
    return event(json.dumps({"choices": [{"index": 0, "delta": {"content": text}, **fields}]}).encode())


FINISH = text_chunk("", finish_reason="stop")
USAGE = event(b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}')
DONE = event(b"[DONE]")


class ModelServer:
    """A server of one model. `handlers` answer the paths, and all other paths than the list of models get 404.

    `models` is the list of models, or what answers instead.
    """

    def __init__(self, models: object = MODELS, **handlers: Handler) -> None:
        self.upstream = ScriptedUpstream(self._answer)
        self.bodies: list[dict[str, Any]] = []
        self._models = models
        self._handlers = handlers

    async def _answer(self, request: ScriptedRequest) -> object:
        path = request.head.split(b" ")[1].decode()
        if request.body:
            self.bodies.append(json.loads(request.body))
        handler = self._handlers.get(path.rpartition("/")[2].replace("-", "_"))
        if path == "/v1/models":
            handler = self._models if callable(self._models) else sending(document(self._models))
        return await (handler or sending(response(404)))(request)


def sending(*parts: bytes) -> Handler:
    """Make a handler that sends these bytes and closes the connection."""

    async def handler(request: ScriptedRequest) -> object:
        await request.send(*parts)
        return True

    return handler


@contextlib.asynccontextmanager
async def engine_of(
    server: ModelServer,
    kind: KindName | None = "vllm",
    reply_seconds: float = TEST_TIMEOUT_SECONDS,
    timeouts: UpstreamTimeouts | None = None,
) -> AsyncGenerator[UpstreamEngine]:
    """Run the server and yield an engine that asks it."""
    async with running_upstream(server.upstream) as url, asyncio.timeout(TEST_TIMEOUT_SECONDS):
        client = UpstreamClient(UpstreamAddress.parse(url), key=SecretText(KEY), timeouts=timeouts)
        engine = UpstreamEngine("m/0", client, model="m", kind=kind, reply_seconds=reply_seconds)
        try:
            yield engine
        finally:
            await engine.close()


async def collect(engine: UpstreamEngine, request: GenerationRequest = REQUEST) -> list[Event]:
    """Return the whole answer."""
    return [event async for event in engine.generate(request)]
