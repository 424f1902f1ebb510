"""The Idempotency-Key header: the same request with the same key is run once, and its answer is given again.

A request without the header never comes here. One with it is run to its end though its client goes away: whoever
lost the connection comes back with the same key and finds the answer, which is paid for once.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from dragoman.core.errors import BadRequest, DragomanError, IdempotencyConflict
from dragoman.core.idempotency import (
    Acquired,
    IdempotencyState,
    IdempotencyStore,
    IdempotentRequest,
    InProgress,
    NotStored,
    RequestMismatch,
    StoredResponse,
)
from dragoman.core.service import Caller
from dragoman.dialects.http import sse

HEADER = "idempotency-key"

REPLAYED = ("idempotent-replayed", "true")
"""Marks an answer that was given before."""

MIN_POLL_SECONDS, MAX_POLL_SECONDS = 0.05, 1.0
"""Seconds between looks at a request that somebody else runs."""

_MAX_KEY_LENGTH = 255

_UNREPLAYED_PREFIX = "x-ratelimit-"
"""Headers that tell what a key has left now: they are not given again."""


def read_idempotent_request(
    request: Request, body: bytes, caller: Caller, dialect: str, extra_parts: Iterable[str] = (), *, is_supported: bool
) -> IdempotentRequest:
    """The attempt that a request with the header is. Raises BadRequest if it cannot be heeded.

    With another path, dialect, account that is to pay or `further` words, a request is another one. `kept` says whether
    answers are kept at all.
    """
    if not is_supported:
        raise BadRequest(
            "This server keeps no answers, so it cannot heed Idempotency-Key: leave the header out, "
            "or set [accounts] database"
        )
    names = request.headers.getlist(HEADER)
    if len(names) > 1 or not _is_key(names[0]):
        raise BadRequest(f"Idempotency-Key must be one header of 1 to {_MAX_KEY_LENGTH} printable ASCII characters")
    words = (request.scope["path"], dialect, caller.account or "", *extra_parts)
    return IdempotentRequest(caller.key_digest, names[0], fingerprint(words, body))


def fingerprint(parts: Iterable[str], body: bytes) -> str:
    """SHA-256 over all that makes a request what it is, each part with its length before it."""
    digest = hashlib.sha256()
    for part in (*(word.encode(errors="surrogateescape") for word in parts), body):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def _is_key(text: str) -> bool:
    return 0 < len(text) <= _MAX_KEY_LENGTH and text.isascii() and text.isprintable()


class ResponseRecorder:
    """A response as it is sent, message by message, as long as it is small enough to be kept."""

    def __init__(self, max_bytes: int) -> None:
        """`largest` is the most bytes of a body."""
        self._max_bytes = max_bytes
        self._status = 0
        self._headers: tuple[tuple[str, str], ...] = ()
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, message: Message) -> bool:
        """Take the next message; True: it is the last."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = ((name.decode(), value.decode()) for name, value in message["headers"])
            self._headers = tuple(header for header in headers if not header[0].startswith(_UNREPLAYED_PREFIX))
            return False
        body = message.get("body", b"")
        if body != sse.KEEP_ALIVE:
            self._size += len(body)
            # What is too large is not kept, so it is not gathered either.
            if self.is_too_large:
                self._parts.clear()
            else:
                self._parts.append(body)
        return not message.get("more_body", False)

    @property
    def is_too_large(self) -> bool:
        """Whether there is more than can be kept."""
        return self._size > self._max_bytes

    def stored_response(self) -> StoredResponse | None:
        """The whole response; None: it is too large."""
        return None if self.is_too_large else StoredResponse(self._status, self._headers, b"".join(self._parts))


class IdempotentResponseOptions(NamedTuple):
    """How the dialect tells what is not an answer."""

    stream: bool
    keep_alive_seconds: float
    error_response: Callable[[DragomanError], Response]
    """Before the first byte."""
    error_frame: Callable[[DragomanError], bytes]
    """After it: the end of a stream."""
    headers: Mapping[str, str]
    """Of a stream that begins before its answer."""


class _ResponseSender:
    """The way to the client, on which a stream that has to wait may begin before its answer is there."""

    def __init__(self, send: Send, options: IdempotentResponseOptions) -> None:
        self._send = send
        self._options = options
        self._started = False
        self._refused = False
        self._last_sent = time.monotonic()

    async def keep_alive(self) -> None:
        """Send a comment if the stream was silent for long enough."""
        if not self._options.stream or time.monotonic() - self._last_sent < self._options.keep_alive_seconds:
            return
        if not self._started:
            headers = [
                (name.encode(), value.encode()) for name, value in {**self._options.headers, **sse.HEADERS}.items()
            ]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            self._started = True
        await self._send({"type": "http.response.body", "body": sse.KEEP_ALIVE, "more_body": True})
        self._last_sent = time.monotonic()

    async def send(self, message: Message) -> None:
        """Send a response's message; of one that began already the head is left out."""
        if self._refused:
            return
        if not self._started or message["type"] != "http.response.start":
            await self._send(message)
        elif message["status"] != 200:
            await self._end_with_error(message["status"])

    async def _end_with_error(self, status: int) -> None:
        self._refused = True
        error = BadRequest(f"The request was refused with status {status}; without a stream it is told why")
        await self._send({"type": "http.response.body", "body": self._options.error_frame(error), "more_body": False})


class IdempotentResponse(Response):
    """Answers a request with an Idempotency-Key: by running it, or with the answer that it was given before."""

    def __init__(
        self,
        response: Response,
        is_final: Callable[[], bool],
        store: IdempotencyStore,
        idempotent_request: IdempotentRequest,
        options: IdempotentResponseOptions,
    ) -> None:
        """`response` runs the request. `is_final` tells, when its last message comes, whether that answer stands."""
        super().__init__()
        self._response = response
        self._is_final = is_final
        self._store = store
        self._idempotent_request = idempotent_request
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = _ResponseSender(send, self._options)
        try:
            state = await self._wait_for_state(receive, sender)
        except DragomanError as error:
            await self._options.error_response(error)(scope, receive, sender.send)
            return
        match state:
            case Acquired():
                await self._run(state, scope, receive, sender)
            case StoredResponse():
                await _replay(state, sender)
            case RequestMismatch():
                await self._refuse("Idempotency-Key was used for another request before", scope, receive, sender)
            case NotStored():
                limit = self._store.max_response_bytes
                message = f"The request was answered, but its answer had more than {limit} bytes and was not kept"
                await self._refuse(f"{message}. Use another Idempotency-Key to run it again", scope, receive, sender)

    async def _wait_for_state(self, receive: Receive, sender: _ResponseSender) -> IdempotencyState | None:
        """How the request stands when nobody else runs it; None: its client is gone."""
        poll_seconds = MIN_POLL_SECONDS
        disconnected = asyncio.create_task(_wait_for_disconnect(receive))
        try:
            while isinstance(state := await self._store.claim(self._idempotent_request), InProgress):
                await asyncio.wait([disconnected], timeout=poll_seconds)
                if disconnected.done():
                    return None
                await sender.keep_alive()
                poll_seconds = min(MAX_POLL_SECONDS, poll_seconds * 2)
            return state
        finally:
            disconnected.cancel()
            await asyncio.wait([disconnected])

    async def _run(self, claim: Acquired, scope: Scope, receive: Receive, sender: _ResponseSender) -> None:
        recorder = ResponseRecorder(self._store.max_response_bytes)
        too_large = asyncio.Event()

        async def receive_patiently() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                # An answer that will not be kept is of no use to anybody any more.
                await too_large.wait()
            return message

        async def record(message: Message) -> None:
            is_last = recorder.add(message)
            if recorder.is_too_large:
                too_large.set()
            if is_last and self._is_final():
                # Before the client has it all: what a client has seen end is not run again.
                await self._store.store(self._idempotent_request, claim, recorder.stored_response())
            await sender.send(message)

        try:
            await self._response(scope, receive_patiently, record)
        finally:
            self._store.release(self._idempotent_request, claim)

    async def _refuse(self, message: str, scope: Scope, receive: Receive, sender: _ResponseSender) -> None:
        await self._options.error_response(IdempotencyConflict(message))(scope, receive, sender.send)


async def _replay(answer: StoredResponse, sender: _ResponseSender) -> None:
    headers = [(name.encode(), value.encode()) for name, value in (*answer.headers, REPLAYED)]
    await sender.send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await sender.send({"type": "http.response.body", "body": answer.body, "more_body": False})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
