"""Events on their way to the client: whole or as a stream, the same for every dialect, and ended properly."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import NamedTuple

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dragoman.core.errors import BadRequest, DragomanError, EngineFailed, JobNotFound, Overloaded
from dragoman.core.service import EventStream
from dragoman.dialects import sse
from dragoman.dialects.door import error_response, limit_headers
from dragoman.dialects.form import Call, ErrorCodec

_log = structlog.get_logger(__name__)


class Manner(NamedTuple):
    """How an answer is told."""

    call: Call
    errors: ErrorCodec
    headers: Mapping[str, str]
    keep_alive_seconds: float
    request_id: str
    """For the log."""


class _Defect(EngineFailed):
    """Ours, not the engine's."""

    def __init__(self) -> None:
        super().__init__("An internal error occurred")


def is_its_end(error: DragomanError) -> bool:
    """Whether the answer itself ended with the error; otherwise it has only been told no further, for now."""
    return not isinstance(error, Overloaded | JobNotFound | _Defect)


class Exchange(Response):
    """The answer to one request. A client that goes away has it closed at once, streamed or not."""

    def __init__(
        self, begin: Callable[[], Awaitable[EventStream]], manner: Manner, frames: sse.Frames | None = None
    ) -> None:
        """`begin` gives the events, or raises core.errors. `frames` are those of the stream, if there is one."""
        super().__init__()
        self.is_final = False
        """Whether the same request would get nothing better: it is answered, or refused as it stands."""
        self._begin_answering = begin
        self._call = manner.call
        self._errors = manner.errors
        self._own_headers = {**manner.headers}
        self._keep_alive_seconds = manner.keep_alive_seconds
        self._request_id = manner.request_id
        self._frames = frames or sse.Frames()
        self._stream_began = False
        self._stream_ended = False
        self._writing = asyncio.Lock()
        self._last_written = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = asyncio.create_task(
            self._stream(send) if self._call.stream else self._collect(scope, receive, send)
        )
        watching = asyncio.create_task(self._watch(receive, send))
        try:
            await asyncio.wait((answering, watching), return_when=asyncio.FIRST_COMPLETED)
        finally:
            answering.cancel()
            watching.cancel()
            results = await asyncio.gather(answering, watching, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _collect(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self._answering() as events:
                async for event in events:
                    for _ in self._call.machine.feed(event):
                        pass
            response = Response(self._call.machine.collected(), 200, self._own_headers, "application/json")
            self.is_final = True
        except DragomanError as error:
            self.is_final = isinstance(error, BadRequest)
            response = error_response(self._errors.reply(self._call.as_sent(error)), self._own_headers)
        except Exception:  # noqa: BLE001 - the border: a defect of ours is a failed request, not a broken connection
            response = error_response(self._errors.reply(self._defect()), self._own_headers)
        await response(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        try:
            async with self._answering() as events:
                async for event in events:
                    documents = self._call.machine.feed(event)
                    if frames := b"".join(self._frames.next(sse.frame(document)) for document in documents):
                        await self._write(send, frames)
            last = self._frames.next(self._call.machine.terminator())
            self.is_final = True
        except DragomanError as error:
            last = await self._fail(send, self._call.as_sent(error))
        except Exception:  # noqa: BLE001 - the same border
            last = await self._fail(send, self._defect())
        await self._end(send, last)

    @contextlib.asynccontextmanager
    async def _answering(self) -> AsyncIterator[EventStream]:
        """The one place where events are asked for."""
        async with contextlib.aclosing(await self._begin_answering()) as answering:
            self._own_headers |= limit_headers(answering.allowances)
            yield answering

    async def _fail(self, send: Send, error: DragomanError) -> bytes:
        """The last bytes of a stream that failed; before its first one, they are an ordinary error response."""
        if self._stream_began:
            frame = self._errors.frame(error)
            return self._frames.next(frame) if is_its_end(error) else frame
        self.is_final = isinstance(error, BadRequest)
        reply = self._errors.reply(error)
        await self._begin(send, reply.status, {"content-type": "application/json", **reply.headers})
        return reply.body

    async def _end(self, send: Send, last: bytes) -> None:
        """Send the last bytes of a stream."""
        await self._write(send, last, more=False)

    async def _watch(self, receive: Receive, send: Send) -> None:
        """Return when the client is gone; meanwhile keep a silent stream alive."""
        while True:
            streaming = self._call.stream and not self._stream_ended
            silent = time.monotonic() - self._last_written
            if streaming and silent >= self._keep_alive_seconds:
                await self._write(send, self._frames.keep_alive)
                continue
            try:
                async with asyncio.timeout(self._keep_alive_seconds - silent if streaming else None):
                    if (await receive())["type"] == "http.disconnect":
                        return
            except TimeoutError:
                continue

    async def _begin(self, send: Send, status: int, headers: dict[str, str]) -> None:
        self._stream_began = True
        raw = [(key.encode(), value.encode()) for key, value in (self._own_headers | headers).items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})

    async def _write(self, send: Send, frames: bytes, *, more: bool = True) -> None:
        async with self._writing:
            if self._stream_ended:
                return
            self._stream_ended = not more
            self._last_written = time.monotonic()
            if not self._stream_began:
                await self._begin(send, 200, sse.HEADERS)
            await send({"type": "http.response.body", "body": frames, "more_body": more})

    def _defect(self) -> DragomanError:
        _log.exception("request failed by a defect", request_id=self._request_id)
        return _Defect()
