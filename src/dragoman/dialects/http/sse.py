"""Server-sent events: frames and headers of a stream."""

MEDIA_TYPE = "text/event-stream; charset=utf-8"

HEADERS = {"content-type": MEDIA_TYPE, "cache-control": "no-cache", "x-accel-buffering": "no"}

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment: clients skip it, proxies see that the connection is alive."""

KEEP_ALIVE_WITH_IDS = b": keep-alive\n"
"""The same for a stream with ids, in which clients take an empty line for the end of an event."""

DONE = b"data: [DONE]\n\n"


def frame(document: bytes) -> bytes:
    """Return one event with a JSON document, which has no line breaks."""
    return b"data: " + document + b"\n\n"


class Frames:
    """Encodes the frames of a stream for the client."""

    keep_alive = KEEP_ALIVE

    def encode(self, frame: bytes) -> bytes:
        """Return the bytes to send for the next frame; may be empty."""
        return frame


class NumberedFrames(Frames):
    """Numbers the frames from 1 on, as their id, and skips those that the reader has."""

    keep_alive = KEEP_ALIVE_WITH_IDS

    def __init__(self, after: int = 0) -> None:
        """`after` is the number of the last frame the reader has."""
        self._last_received = after
        self._count = 0

    def encode(self, frame: bytes) -> bytes:
        if not frame:
            return b""
        self._count += 1
        return b"id: %d\n%b" % (self._count, frame) if self._count > self._last_received else b""

    @property
    def has_caught_up(self) -> bool:
        """Whether all frames that the reader has were encoded."""
        return self._count >= self._last_received
