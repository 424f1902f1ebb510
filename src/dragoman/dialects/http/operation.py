"""Descriptions of routes for the OpenAPI document, beside the structs of wire.py."""

from typing import Any

import msgspec

EXAMPLE_CHAT: dict[str, object] = {
    "model": "{model}",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 16,
}

EXAMPLE_TEXT: dict[str, object] = {"model": "{model}", "prompt": "Once upon a time", "max_tokens": 16}


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One route."""

    method: str
    path: str
    """With `{parameters}`."""
    summary: str
    response: type[msgspec.Struct] | type[list[Any]]
    error: type[msgspec.Struct]
    error_statuses: tuple[int, ...]
    request: type[msgspec.Struct] | None = None
    chunk: type[msgspec.Struct] | None = None
    """One event of the stream; None: the route has none."""
    ends_with_done: bool = True
    """Whether the stream's terminator is [DONE]."""
    is_always_queued: bool = False
    """Whether its requests are queued even without asking for it."""
    is_queueable: bool = False
    """Whether its requests may be queued although its answers are no streams."""
    query: type[msgspec.Struct] | None = None
    example: dict[str, object] | None = None
    """A request body that the model named `{model}` answers with 200."""

    @property
    def generates(self) -> bool:
        """Whether a model answers its requests, now or later."""
        return self.request is not None and (self.chunk is not None or self.is_always_queued or self.is_queueable)
