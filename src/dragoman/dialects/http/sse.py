"""Server-sent events: the frames and the headers of a stream."""

MEDIA_TYPE = "text/event-stream; charset=utf-8"

HEADERS = {"content-type": MEDIA_TYPE, "cache-control": "no-cache", "x-accel-buffering": "no"}

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment: clients skip it, proxies see that the connection lives."""

KEEP_ALIVE_WITH_IDS = b": keep-alive\n"
"""The same for a stream with ids: after the first of them, clients take an empty line for the end of an event."""

DONE = b"data: [DONE]\n\n"


def frame(document: bytes) -> bytes:
    """One event with a JSON document, which has no line breaks."""
    return b"data: " + document + b"\n\n"


class Frames:
    """The frames of a stream on their way to the client."""

    keep_alive = KEEP_ALIVE

    def encode(self, frame: bytes) -> bytes:
        """The next frame as it is to be sent; it may be empty."""
        return frame


class NumberedFrames(Frames):
    """Frames with an id: their number, from 1 on. A reader who has some already is sent those after them."""

    keep_alive = KEEP_ALIVE_WITH_IDS

    def __init__(self, after: int = 0) -> None:
        """`after` is the number of the last frame that the reader has."""
        self._last_received = after
        self._count = 0

    def encode(self, frame: bytes) -> bytes:
        if not frame:
            return b""
        self._count += 1
        return b"id: %d\n%b" % (self._count, frame) if self._count > self._last_received else b""

    @property
    def has_caught_up(self) -> bool:
        """Whether the last frame that the reader has was among those up to now."""
        return self._count >= self._last_received
