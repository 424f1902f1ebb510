"""Server-sent events: the frames and the headers of a stream."""

MEDIA_TYPE = "text/event-stream; charset=utf-8"

HEADERS = {"content-type": MEDIA_TYPE, "cache-control": "no-cache", "x-accel-buffering": "no"}

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment: clients skip it, proxies see that the connection lives."""

DONE = b"data: [DONE]\n\n"


def frame(document: bytes) -> bytes:
    """One event with a JSON document, which has no line breaks."""
    return b"data: " + document + b"\n\n"
