"""One HTTP exchange, the same for every dialect: read the body, answer it whole or as a stream, end it properly.

A dialect brings three things: a decoder from bytes to a Call, the Call's answer machine, and its error envelope.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dragoman.core.allowance import Allowances
from dragoman.core.errors import (
    BadRequest,
    BodyTooLarge,
    DragomanError,
    EngineFailed,
    Limited,
    ModelNotFound,
    Overloaded,
    RateLimited,
    Unauthenticated,
)
from dragoman.core.events import Event
from dragoman.core.idempotency import AnswerBook, Attempt
from dragoman.core.identifiers import new_request_id
from dragoman.core.request import GenerationRequest
from dragoman.core.service import Answering, Caller, GenerationService, VisibleModels
from dragoman.dialects import sse
from dragoman.dialects.idempotency import HEADER, Repeatable, Telling, attempt_of

_log = structlog.get_logger(__name__)


class AnswerMachine(Protocol):
    """Events in, JSON out: one state machine for both ways of answering."""

    def feed(self, event: Event) -> Iterable[bytes]:
        """The JSON documents of the stream that this event gives."""
        ...

    def terminator(self) -> bytes:
        """The last frame of a complete stream, framing included; empty where the dialect has none."""
        ...

    def collected(self) -> bytes:
        """The whole answer as one JSON document, after the last event."""
        ...


class Call(NamedTuple):
    """A decoded request."""

    requests: list[GenerationRequest]
    stream: bool
    machine: AnswerMachine
    fields: Mapping[str, str] = {}
    """What this request calls the parameters that the engine may refuse, where its words are others."""


class ErrorReply(NamedTuple):
    """An error in a dialect's own envelope."""

    status: int
    body: bytes
    headers: dict[str, str]


class ErrorReplies(Protocol):
    """How errors are told before the first byte."""

    def reply(self, error: DragomanError) -> ErrorReply:
        """The response to a request that failed before it."""
        ...


class ErrorCodec(ErrorReplies, Protocol):
    """How a dialect tells of errors, before the first byte and after it."""

    def frame(self, error: DragomanError) -> bytes:
        """The frame that ends a stream that failed after it, framing included."""
        ...


class ExchangeOptions(NamedTuple):
    """Limits of every exchange."""

    max_body_bytes: int
    keep_alive_seconds: float
    """A stream that was silent for so long carries a comment."""
    proxies: frozenset[str] = frozenset()
    """Addresses whose X-Forwarded-For is believed."""
    answers: AnswerBook | None = None
    """Where answers to requests with an Idempotency-Key are kept; None: nowhere, and such requests are refused."""
    dialect: str = ""
    """Whose exchanges these are: equal paths of two dialects, on hosts of their own, are not equal requests."""


def _no_account(_headers: Headers) -> None:
    return None


class Door(NamedTuple):
    """What all routes of a dialect share."""

    service: GenerationService
    read_key: Callable[[Headers], str | None]
    """The key a request brings; None: none. Raises Unauthenticated when its header has the wrong form."""
    options: ExchangeOptions
    id_headers: tuple[str, ...] = ("x-request-id",)
    """The headers that carry the request's id."""
    read_account: Callable[[Headers], str | None] = _no_account
    """The account that a request selects to pay; None: the key's own."""

    def caller(self, request: Request, request_id: str) -> Caller:
        """Who asks. Raises Unauthenticated when the key's header has the wrong form."""
        headers = request.headers
        key = self.read_key(headers) if self.service.needs_key else None
        return Caller(request_id, key, _address(request, self.options.proxies), self.read_account(headers))


def _as_it_is(response: Response) -> Response:
    return response


async def respond(
    request: Request,
    door: Door,
    decode: Callable[[bytes, str], Call],
    errors: ErrorCodec,
    dress: Callable[[Response], Response] = _as_it_is,
) -> Response:
    """Answer a request whose body `decode` understands; its second argument is the id for the answer, 32 hex digits.

    `dress` adds to the answer what the dialect has to add.
    """
    request_id = new_request_id()
    headers = dict.fromkeys(door.id_headers, request_id)
    try:
        caller = door.caller(request, request_id)
        await door.service.recognize(caller)
        try:
            body = await read_body(request, door)
            call = decode(body, request_id)
            attempt = _attempt(request, door, body, caller)
        except DragomanError as error:
            raise await _first_fault(door.service, caller, error) from None
        if attempt is not None:
            # An answer that is given again is not admitted, so this is where a key that is good no more is found out.
            await door.service.visible_to(caller)
    except DragomanError as error:
        return error_response(errors.reply(error), headers)
    except ClientDisconnect:
        return Response()  # nobody is there to read it
    exchange = _Exchange(door.service, caller, call, errors, headers, door.options.keep_alive_seconds)
    answers = door.options.answers
    if attempt is None or answers is None:
        return dress(exchange)
    telling = Telling(
        call.stream,
        door.options.keep_alive_seconds,
        refusal=lambda error: error_response(errors.reply(error), headers),
        frame=errors.frame,
        headers=headers,
    )
    return Repeatable(dress(exchange), lambda: exchange.is_final, answers, attempt, telling)


async def guard(
    request: Request,
    door: Door,
    answer: Callable[[Caller, VisibleModels], Awaitable[Response]],
    errors: ErrorReplies,
) -> Response:
    """Answer a request that generates nothing: the key first, and the dialect's own errors.

    `answer` is given who asks and what they may know of.
    """
    try:
        caller = door.caller(request, new_request_id())
        return await answer(caller, await door.service.visible_to(caller))
    except DragomanError as error:
        return error_response(errors.reply(error), {})
    except ClientDisconnect:
        return Response()


def bearer_key(headers: Headers) -> str | None:
    """The key of `Authorization: Bearer KEY`, None without one. Raises Unauthenticated for another form."""
    value = headers.get("authorization", "").strip()
    scheme, _, key = value.partition(" ")
    if not value:
        return None
    if scheme.lower() != "bearer":
        raise Unauthenticated("malformed", value)
    return key.strip() or None


async def _first_fault(
    service: GenerationService, caller: Caller, error: DragomanError, model: str | None = None
) -> DragomanError:
    """What to tell of a request with an error in it: what is wrong with its caller comes before the body and the model.

    A request without one costs a single question, since it is looked at when it is admitted.
    """
    if isinstance(error, BadRequest | BodyTooLarge | ModelNotFound):
        try:
            await service.check(caller, model)
        except DragomanError as earlier:
            return earlier
    return error


def _address(request: Request, proxies: frozenset[str]) -> str:
    """The client's: as far as the addresses of proxies go, the one that the last of them tells."""
    address = request.client.host if request.client is not None else ""
    if address not in proxies:
        return address
    told = [part.strip() for part in ",".join(request.headers.getlist("x-forwarded-for")).split(",")]
    while address in proxies and told:
        address = told.pop() or address
    return address


def _attempt(request: Request, door: Door, body: bytes, caller: Caller) -> Attempt | None:
    if HEADER not in request.headers:
        return None
    return attempt_of(request, body, caller, door.options.dialect, kept=door.options.answers is not None)


def error_headers(error: DragomanError) -> dict[str, str]:
    """When to come back, and how to bring a key: what most dialects add to an error."""
    match error:
        case RateLimited():
            return {"retry-after": str(error.retry_after), **limit_headers(error.allowances)}
        case Overloaded() | Limited():
            return {"retry-after": str(error.retry_after)}
        case Unauthenticated():
            return {"www-authenticate": "Bearer"}
        case _:
            return {}


def limit_headers(allowances: Allowances) -> dict[str, str]:
    """What a key has left of its limits per minute, in OpenAI's headers."""
    headers = {}
    for kind, allowance in zip(("requests", "tokens"), allowances, strict=True):
        if allowance is not None:
            headers[f"x-ratelimit-limit-{kind}"] = str(allowance.limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(allowance.remaining)
            headers[f"x-ratelimit-reset-{kind}"] = f"{allowance.resets_in}s"
    return headers


def error_response(reply: ErrorReply, headers: dict[str, str]) -> Response:
    """An error before the first byte."""
    return Response(reply.body, reply.status, {**headers, **reply.headers}, "application/json")


async def read_body(request: Request, door: Door) -> bytes:
    """The whole body. Raises BodyTooLarge, or ClientDisconnect."""
    return await read_limited_body(request, door.options.max_body_bytes)


async def read_limited_body(request: Request, limit: int) -> bytes:
    """The whole body of at most `limit` bytes. Raises BodyTooLarge, or ClientDisconnect."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge(limit)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise BodyTooLarge(limit)
        parts.append(part)
    return b"".join(parts)


class _Exchange(Response):
    """The answer to one request. A client that goes away cancels it at once, streamed or not."""

    def __init__(
        self,
        service: GenerationService,
        caller: Caller,
        call: Call,
        errors: ErrorCodec,
        headers: dict[str, str],
        keep_alive_seconds: float,
    ) -> None:
        super().__init__()
        self.is_final = False
        """Whether the same request would get nothing better: it is answered, or refused as it stands."""
        self._service = service
        self._caller = caller
        self._call = call
        self._errors = errors
        self._own_headers = headers
        self._keep_alive_seconds = keep_alive_seconds
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
            response = error_response(self._errors.reply(self._as_sent(error)), self._own_headers)
        except Exception:  # noqa: BLE001 - the border: a defect of ours is a failed request, not a broken connection
            response = error_response(self._errors.reply(self._defect()), self._own_headers)
        await response(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        try:
            async with self._answering() as events:
                async for event in events:
                    if frames := b"".join(map(sse.frame, self._call.machine.feed(event))):
                        await self._write(send, frames)
            last = self._call.machine.terminator()
            self.is_final = True
        except DragomanError as error:
            last = await self._fail(send, self._as_sent(error))
        except Exception:  # noqa: BLE001 - the same border
            last = await self._fail(send, self._defect())
        await self._write(send, last, more=False)

    @contextlib.asynccontextmanager
    async def _answering(self) -> AsyncIterator[Answering]:
        """The one place where a decoded call is run."""
        requests = self._call.requests
        try:
            answering = await self._service.generate(requests, self._caller, streamed=self._call.stream)
        except DragomanError as error:
            raise await _first_fault(self._service, self._caller, error, requests[0].model) from None
        async with contextlib.aclosing(answering):
            self._own_headers = self._own_headers | limit_headers(answering.allowances)
            yield answering

    async def _fail(self, send: Send, error: DragomanError) -> bytes:
        """The last bytes of a stream that failed; before its first one, they are an ordinary error response."""
        if self._stream_began:
            return self._errors.frame(error)
        self.is_final = isinstance(error, BadRequest)
        reply = self._errors.reply(error)
        await self._begin(send, reply.status, {"content-type": "application/json", **reply.headers})
        return reply.body

    async def _watch(self, receive: Receive, send: Send) -> None:
        """Return when the client is gone; meanwhile keep a silent stream alive."""
        while True:
            streaming = self._call.stream and not self._stream_ended
            silent = time.monotonic() - self._last_written
            if streaming and silent >= self._keep_alive_seconds:
                await self._write(send, sse.KEEP_ALIVE)
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

    def _as_sent(self, error: DragomanError) -> DragomanError:
        """The error, with the field at fault under the name it was sent by."""
        if isinstance(error, BadRequest) and error.parameter is not None:
            error.parameter = self._call.fields.get(error.parameter, error.parameter)
        return error

    def _defect(self) -> DragomanError:
        _log.exception("request failed by a defect", request_id=self._caller.request_id)
        return EngineFailed("An internal error occurred")
