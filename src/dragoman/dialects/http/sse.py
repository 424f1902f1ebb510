"""Server-sent events: the bytes of one, and the headers of a stream."""

from typing import NamedTuple

MEDIA_TYPE = "text/event-stream; charset=utf-8"

HEADERS = {"content-type": MEDIA_TYPE, "cache-control": "no-cache", "x-accel-buffering": "no"}

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment: clients skip it, proxies see that the connection is alive."""

KEEP_ALIVE_WITH_IDS = b": keep-alive\n"
"""The same for a stream with ids, in which clients take an empty line for the end of an event."""


_LINE_SEPARATORS = tuple((separator.encode(), b"\\u%04x" % ord(separator)) for separator in "\x85\u2028\u2029")
"""Characters at which Python's str.splitlines ends lines, though events do not: UTF-8, and JSON's escape of it.

httpx's iter_lines uses it, and so do clients that read events with that (florimondmanca/httpx-sse#34, LiteLLM).
"""


class SseEvent(NamedTuple):
    """One event of a stream."""

    data: bytes
    """A JSON document, or another text of ASCII without line breaks."""
    name: str | None = None
    """The event's type; None: it has none."""


DONE = SseEvent(b"[DONE]")

UNNAMED = b"data: %b\n\n"
"""The bytes of an event without a name, if its data is ASCII."""


def frame(event: SseEvent) -> bytes:
    """Return the bytes of an event."""
    data, name = event
    if not data.isascii():
        for separator, escaped in _LINE_SEPARATORS:
            if separator[-1] in data:  # One byte is found faster than several.
                data = data.replace(separator, escaped)
    return UNNAMED % data if name is None else b"event: %b\ndata: %b\n\n" % (name.encode(), data)
