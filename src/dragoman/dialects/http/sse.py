"""Server-sent events: frames and headers of a stream."""

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


def frame(event: SseEvent) -> bytes:
    """Return the bytes of an event."""
    data, name = event
    return b"data: %b\n\n" % data if name is None else b"event: %b\ndata: %b\n\n" % (name.encode(), data)


class Frames:
    """Encodes the events of a stream for the client."""

    keep_alive = KEEP_ALIVE

    def encode(self, event: SseEvent) -> bytes:
        """Return the bytes to send for the next event; may be empty."""
        return frame(event)


class NumberedFrames(Frames):
    """Numbers the events from 1 on, as their id, and skips those that the reader has."""

    keep_alive = KEEP_ALIVE_WITH_IDS

    def __init__(self, after: int = 0) -> None:
        """`after` is the number of the last event the reader has."""
        self._last_received = after
        self._count = 0

    def encode(self, event: SseEvent) -> bytes:
        self._count += 1
        return b"id: %d\n%b" % (self._count, frame(event)) if self._count > self._last_received else b""

    @property
    def has_caught_up(self) -> bool:
        """Whether all events that the reader has were encoded."""
        return self._count >= self._last_received
