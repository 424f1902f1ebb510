"""Parse server-sent events as they arrive.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html. Lines end with LF or CRLF; a lone CR, which no
inference server sends, does not end one.
"""

import msgspec

from dragoman.engines.upstream.transport_errors import BrokenResponse

MAX_EVENT_BYTES = 1024 * 1024

_EVENT_END = b"\n\n"
_DATA = b"data: "
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ReceivedEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of a stream."""

    data: bytes
    name: bytes = b""


class EventStreamParser:
    """Splits the bytes of one stream into events. Comments and unknown fields are skipped."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = b""
        self._data: list[bytes] = []
        self._name = b""
        self._pending_bytes = 0
        self._is_at_start = True

    def feed(self, chunk: bytes) -> list[ReceivedEvent]:
        """Return the events that are complete now. Raises BrokenResponse if one is too large."""
        unread = self._rest + chunk if self._rest else chunk
        events: list[ReceivedEvent] = []
        if self._is_at_start and len(unread) >= len(_BYTE_ORDER_MARK):
            self._is_at_start = False
            unread = unread.removeprefix(_BYTE_ORDER_MARK)
        if self._data or self._name or self._is_at_start or b"\r" in unread:
            self._feed_lines(unread, events)
            return events
        *blocks, unfinished = unread.split(_EVENT_END)
        for block in blocks:
            # Nearly every event of an inference server is one such line.
            if block.startswith(_DATA) and b"\n" not in block and len(block) <= self._max_event_bytes:
                events.append(ReceivedEvent(block[len(_DATA) :]))
                continue
            self._feed_lines(block + _EVENT_END, events)
        self._rest = b""
        if unfinished:
            self._feed_lines(unfinished, events)
        return events

    def _feed_lines(self, unread: bytes, events: list[ReceivedEvent]) -> None:
        *lines, self._rest = unread.split(b"\n")
        for line in lines:
            self._add_line(line.removesuffix(b"\r"), events)
        if self._pending_bytes + len(self._rest) > self._max_event_bytes:
            raise BrokenResponse(f"an event of the stream has more than {self._max_event_bytes} bytes")

    def finish(self) -> list[ReceivedEvent]:
        """Return the event that the end of the stream completes, if there is one."""
        return self.feed(_EVENT_END) if self._rest or self._data else []

    def _add_line(self, line: bytes, events: list[ReceivedEvent]) -> None:
        if self._is_at_start:
            self._is_at_start = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            if self._data:
                events.append(ReceivedEvent(b"\n".join(self._data), self._name))
                self._data = []
            self._name = b""
            self._pending_bytes = 0
            return
        field, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            self._pending_bytes += len(value) + 1
            if self._pending_bytes > self._max_event_bytes:
                raise BrokenResponse(f"an event of the stream has more than {self._max_event_bytes} bytes")
            self._data.append(value)
        elif field == b"event":
            self._name = value
