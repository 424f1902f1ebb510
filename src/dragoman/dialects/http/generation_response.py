"""The response that runs a generation and sends its events, as one document or as a stream."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from urllib.parse import quote

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dragoman.core import logs
from dragoman.core.errors import BadRequest, DragomanError, JobNotFound, Overloaded, ShuttingDown
from dragoman.core.events import Unenforced
from dragoman.core.rate_limits import NO_LIMITS
from dragoman.core.services import EventStream
from dragoman.dialects.http import sse
from dragoman.dialects.http.codec import DecodedRequest, ErrorCodec, ErrorResponse
from dragoman.dialects.http.errors import NOT_AGAIN, InternalError, error_response, rate_limit_headers

UNENFORCED_HEADER = "x-dragoman-unenforced"
"""Names the keywords of the request's schemas that are not enforced."""

DEPLOYMENT_HEADER, UPSTREAM_HEADER, ATTEMPTS_HEADER = (
    "x-dragoman-deployment",
    "x-dragoman-upstream",
    "x-dragoman-attempts",
)
"""Which server has answered, where there are several."""

ON_DISCONNECT = "dragoman.on_disconnect"
"""In a request's scope: takes what the event loop calls if the client disconnects before its response is complete.

It spares the task that would wait for receive() to say so. Our own server has it, others need not.
"""

SERVER_STOPS = "The server stops"
"""What a task's cancellation says that comes from a server which stops: its client is still there."""

_STOPPED_RETRY_AFTER_SECONDS = 5

_WRITE_PAUSE_SECONDS = 0.001
"""Between two writes of a stream: the frames of faster tokens share one. A write costs as much as several tokens."""

_MAX_PENDING_BYTES = 65_536
"""Of a stream, before the generation waits for its client."""

_MAX_REPORTED_LENGTH = 2_000
_HEADER_CHARACTERS = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")

_log = logs.get_logger(__name__)


class Frames:
    """Encodes the events of a stream for the client."""

    keep_alive = sse.KEEP_ALIVE

    def encode(self, event: sse.SseEvent) -> bytes:
        """Return the bytes to send for the next event; may be empty."""
        is_plain = event.name is None and event.data.isascii()
        return sse.UNNAMED % event.data if is_plain else sse.frame(event)


class NumberedFrames(Frames):
    """Numbers the events from 1 on, as their id, and skips those that the reader has."""

    keep_alive = sse.KEEP_ALIVE_WITH_IDS

    def __init__(self, after: int = 0) -> None:
        """`after` is the number of the last event the reader has."""
        self._last_received = after
        self._count = 0

    def encode(self, event: sse.SseEvent) -> bytes:
        self._count += 1
        return b"id: %d\n%b" % (self._count, sse.frame(event)) if self._count > self._last_received else b""

    @property
    def has_caught_up(self) -> bool:
        """Whether all events that the reader has were encoded."""
        return self._count >= self._last_received


_FRAMES = Frames()


class ResponseOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How an answer is rendered."""

    decoded: DecodedRequest
    errors: ErrorCodec
    headers: dict[str, str]
    """Headers may be added until the response begins."""
    keep_alive_seconds: float
    """A stream that was silent for this long gets a comment."""
    request_id: str
    """For the log."""
    may_repeat: bool = True
    """False: an equal request would be charged besides this one, which goes on after an error that is not final."""


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        continue


def is_final_error(error: DragomanError) -> bool:
    """Whether the error ends the answer. False if the stream was only interrupted and can be resumed."""
    return not isinstance(error, Overloaded | JobNotFound | InternalError)


class GenerationResponse(Response):
    """The answer to one request. Generation is cancelled as soon as the client disconnects, streamed or not."""

    def __init__(
        self, start: Callable[[], Awaitable[EventStream]], options: ResponseOptions, frames: Frames | None = None
    ) -> None:
        """`start` returns the events, or raises core.errors. `frames` encodes the frames of a stream."""
        # Response.__init__ would render an empty response.
        self.is_final = False
        """Whether the response may be replayed for an equal request: it is complete, or rejects the request itself."""
        self._start_generation = start
        self._options = options
        self._frames = frames or _FRAMES
        self._events: EventStream | None = None
        self._stream_started = False
        self._stream_ended = False
        self._last_written = 0.0
        self._pending: list[bytes] = []
        """Frames of a stream that are not written yet."""
        self._pending_bytes = 0
        if options.decoded.stream:
            self._last_written = time.monotonic()
            self._write_lock = asyncio.Lock()
            self._has_pending = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        generation = asyncio.current_task()
        assert generation is not None, "a coroutine runs in a task"
        is_running, is_stopped = True, False

        def stop(watch: asyncio.Task[None] | None = None) -> None:
            """Stop the generation: its client has left, or could not be written to."""
            nonlocal is_stopped
            if is_running and not is_stopped:
                is_stopped = generation.cancel()
            elif watch is not None and not watch.cancelled():
                watch.exception()  # retrieved, since nobody else does

        watches = self._watch(scope, receive, send, stop)
        try:
            await (self._stream(send) if self._options.decoded.stream else self._collect(scope, receive, send))
        except asyncio.CancelledError as error:
            if not is_stopped and error.args == (SERVER_STOPS,) and not generation.uncancel():
                is_running = False
                await self._cut_off(scope, receive, send)
                return
            if not is_stopped or generation.uncancel():
                raise
            for watch in watches:
                if watch.done():
                    watch.result()
        finally:
            is_running = False
            for watch in watches:
                watch.cancel()

    async def _cut_off(self, scope: Scope, receive: Receive, send: Send) -> None:
        """End the answer with an error: the server stops, and has no more time for it."""
        error = ShuttingDown("The server is shutting down", _STOPPED_RETRY_AFTER_SECONDS)
        if self._options.decoded.stream:
            await self._end(send, await self._fail(send, error))
        else:
            await error_response(self._render(error), self._options.headers)(scope, receive, send)

    def _watch(
        self, scope: Scope, receive: Receive, send: Send, stop: Callable[..., None]
    ) -> Sequence[asyncio.Task[None]]:
        """Have `stop` called when the client disconnects. Return the tasks that do so, with their results."""
        if not self._options.decoded.stream:
            if (on_disconnect := scope.get(ON_DISCONNECT)) is not None:
                on_disconnect(stop)
                return ()
            watches = [asyncio.create_task(wait_for_disconnect(receive))]
        else:
            watches = [
                asyncio.create_task(self._keep_alive(receive, send)),
                asyncio.create_task(self._write_pending(send)),
            ]
        for watch in watches:
            watch.add_done_callback(stop)
        return watches

    async def _collect(self, scope: Scope, receive: Receive, send: Send) -> None:
        builder = self._options.decoded.builder
        try:
            events = await self._open_events()
            try:
                async for event in events:
                    if type(event) is Unenforced:
                        self._report_unenforced(event)
                    builder.note(event)
            finally:
                await events.aclose()
            body = builder.build()
            self.is_final = True
        except DragomanError as error:
            self.is_final = isinstance(error, BadRequest) and error.is_final
            response = error_response(self._render(self._options.decoded.in_client_terms(error)), self._options.headers)
        except Exception:  # noqa: BLE001 - a defect of the server fails the request, it does not break the connection
            response = error_response(self._render(self._log_internal_error()), self._options.headers)
        else:
            await self._send_start(send, 200, {"content-type": "application/json", "content-length": str(len(body))})
            await send({"type": "http.response.body", "body": body})
            return
        await response(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        feed, encode = self._options.decoded.builder.feed, self._frames.encode
        try:
            async with contextlib.aclosing(await self._open_events()) as events:
                async for event in events:
                    if type(event) is Unenforced:
                        self._report_unenforced(event)
                    if frames := b"".join(map(encode, feed(event))):
                        if not self._pending:
                            self._has_pending.set()
                        self._pending.append(frames)
                        self._pending_bytes += len(frames)
                        if self._pending_bytes > _MAX_PENDING_BYTES:
                            await self._write(send)
            last = self._encode(self._options.decoded.builder.terminator())
            self.is_final = True
        except DragomanError as error:
            last = await self._fail(send, self._options.decoded.in_client_terms(error))
        except Exception:  # noqa: BLE001 - as above
            last = await self._fail(send, self._log_internal_error())
        await self._end(send, last)

    def _render(self, error: DragomanError) -> ErrorResponse:
        """Render an error response. If the answer goes on, libraries must not ask for it a second time."""
        rendered = self._options.errors.render(error)
        if self._options.may_repeat or is_final_error(error):
            return rendered
        return rendered._replace(headers={**rendered.headers, **NOT_AGAIN})

    async def _open_events(self) -> EventStream:
        """Start the generation."""
        generation = self._events = await self._start_generation()
        if generation.allowances != NO_LIMITS:
            self._options.headers.update(rate_limit_headers(generation.allowances))
        return generation

    def _encode(self, events: Iterable[sse.SseEvent]) -> bytes:
        return b"".join(map(self._frames.encode, events))

    async def _fail(self, send: Send, error: DragomanError) -> bytes:
        """Return the last bytes of a stream that failed. Before its first byte, send an ordinary error response."""
        if self._stream_started or self._pending:
            event = self._options.errors.render_event(error)
            if isinstance(self._frames, NumberedFrames) and not is_final_error(error):
                return sse.frame(event)  # The answer has not ended, and its reader can come back.
            return self._encode(self._options.decoded.builder.failure(event))
        self.is_final = isinstance(error, BadRequest) and error.is_final
        rendered = self._render(error)
        await self._send_start(send, rendered.status, {"content-type": "application/json", **rendered.headers})
        return rendered.body

    async def _end(self, send: Send, last: bytes) -> None:
        """Send the last bytes of a stream."""
        await self._write(send, last, more=False)

    async def _write_pending(self, send: Send) -> None:
        """Write the frames of a stream as they come, until the task is cancelled."""
        while True:
            await self._has_pending.wait()
            await self._write(send)
            await asyncio.sleep(_WRITE_PAUSE_SECONDS)

    async def _keep_alive(self, receive: Receive, send: Send) -> None:
        """Keep a silent stream alive. Return when the client disconnects."""
        while True:
            streaming = not self._stream_ended
            silent_seconds = time.monotonic() - self._last_written
            if streaming and silent_seconds >= self._options.keep_alive_seconds:
                event = self._options.decoded.builder.keep_alive()
                await self._write(send, self._frames.keep_alive if event is None else sse.frame(event))
                continue
            try:
                async with asyncio.timeout(self._options.keep_alive_seconds - silent_seconds if streaming else None):
                    if (await receive())["type"] == "http.disconnect":
                        return
            except TimeoutError:
                continue

    async def _send_start(self, send: Send, status: int, headers: dict[str, str]) -> None:
        self._stream_started = True
        self._add_source()
        raw = [(key.encode(), value.encode()) for key, value in (self._options.headers | headers).items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})

    def _add_source(self) -> None:
        """Add the headers that say which server has answered."""
        if self._events is not None and (answered_by := self._events.answered_by) is not None:
            self._options.headers[DEPLOYMENT_HEADER] = answered_by.deployment
            self._options.headers[UPSTREAM_HEADER] = answered_by.replica
            self._options.headers[ATTEMPTS_HEADER] = str(answered_by.attempts)

    async def _write(self, send: Send, frames: bytes = b"", *, more: bool = True) -> None:
        """Write the pending frames, and these behind them."""
        async with self._write_lock:
            if self._stream_ended:
                return
            if self._pending:
                frames = b"".join((*self._pending, frames))
                self._pending.clear()
                self._pending_bytes = 0
            self._has_pending.clear()
            if more and not frames:
                return
            self._stream_ended = not more
            self._last_written = time.monotonic()
            if not self._stream_started:
                await self._send_start(send, 200, sse.HEADERS)
            await send({"type": "http.response.body", "body": frames, "more_body": more})

    def _report_unenforced(self, event: Unenforced) -> None:
        """Name the keywords in the log and in a header of the answer."""
        text = ", ".join(event.keywords)
        _log.warning("schema_not_enforced", request_id=self._options.request_id, keywords=text[:_MAX_REPORTED_LENGTH])
        if not self._stream_started:
            # Pointers are percent-encoded like URI fragments, since a header has ASCII only.
            value = quote(text, safe=_HEADER_CHARACTERS)
            self._options.headers[UNENFORCED_HEADER] = value[:_MAX_REPORTED_LENGTH]

    def _log_internal_error(self) -> DragomanError:
        _log.exception("request_failed_unexpectedly", request_id=self._options.request_id)
        return InternalError()
