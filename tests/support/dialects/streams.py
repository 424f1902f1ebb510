"""Reads a streamed completion as a client does."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class StreamedResponse:
    """A stream as read so far."""

    text: str = ""
    done: bool = False
    """Whether the terminator was received."""
    error: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    finish_reasons: list[str] = field(default_factory=list)


async def read_stream(response: httpx.Response) -> AsyncIterator[StreamedResponse]:
    """Yield the answer after every event of a chat or text stream."""
    streamed = StreamedResponse()
    async for line in response.aiter_lines():
        if not line.startswith("data: "):
            continue
        if line == "data: [DONE]":
            streamed.done = True
        else:
            _read_event(streamed, json.loads(line.removeprefix("data: ")))
        yield streamed


def _read_event(streamed: StreamedResponse, event: dict[str, Any]) -> None:
    streamed.error = event.get("error")
    streamed.usage = event.get("usage") or streamed.usage
    for choice in event.get("choices", []):
        streamed.text += choice.get("text") or choice.get("delta", {}).get("content") or ""
        if reason := choice.get("finish_reason"):
            streamed.finish_reasons.append(reason)


def chat_body(question: str, **fields: object) -> dict[str, object]:
    """Return a chat request to the bundled model."""
    return {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": question}], **fields}
