"""Server-sent events: the bytes of one, and the headers of a stream."""

from typing import NamedTuple

MEDIA_TYPE = "text/event-stream; charset=utf-8"

HEADERS = {"content-type": MEDIA_TYPE, "cache-control": "no-cache", "x-accel-buffering": "no"}

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment: clients skip it, proxies see that the connection is alive."""

KEEP_ALIVE_WITH_IDS = b": keep-alive\n"
"""The same for a stream with ids, in which clients take an empty line for the end of an event."""


class SseEvent(NamedTuple):
    """One event of a stream."""

    data: bytes
    """A JSON document, or another text without line breaks."""
    name: str | None = None
    """The event's type; None: it has none."""


DONE = SseEvent(b"[DONE]")

UNNAMED = b"data: %b\n\n"
"""The bytes of an event without a name."""


def frame(event: SseEvent) -> bytes:
    """Return the bytes of an event."""
    data, name = event
    return UNNAMED % data if name is None else b"event: %b\ndata: %b\n\n" % (name.encode(), data)
