"""The Idempotency-Key header: equal requests with the same key are run once, and the response is replayed.

Such a request runs to its end even if its client disconnects. A client that lost the connection retries with the same
key and receives the response, which is paid for once.
"""

import asyncio
import hashlib
import time
from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from dragoman.core.context import Caller
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
from dragoman.dialects.http import sse
from dragoman.dialects.http.context import sent_headers
from dragoman.dialects.http.errors import error_response
from dragoman.dialects.http.generation_response import (
    ON_DISCONNECT,
    GenerationResponse,
    ResponseOptions,
    wait_for_disconnect,
)

HEADER = "idempotency-key"

REPLAYED = ("idempotent-replayed", "true")
"""Marks a replayed response."""

MIN_POLL_SECONDS, MAX_POLL_SECONDS = 0.05, 1.0
"""Seconds between polls of an equal request that is running."""

_MAX_KEY_LENGTH = 255

_UNREPLAYED_PREFIX = "x-ratelimit-"
"""Prefix of headers that hold for the moment only: they are not replayed."""


def required_store(store: IdempotencyStore | None) -> IdempotencyStore:
    """Return the store. Raises BadRequest if the server has none."""
    if store is None:
        raise BadRequest(
            "This server keeps no answers, so it cannot heed Idempotency-Key: leave the header out, "
            "or set [accounts] database"
        )
    return store


def read_idempotent_request(
    request: Request, body: bytes, caller: Caller, dialect: str, extra_parts: Iterable[str] = ()
) -> IdempotentRequest | None:
    """Read the header; None without it. Raises BadRequest for an invalid one.

    Requests are equal if path, dialect, paying account, body and `extra_parts` are.
    """
    names = sent_headers(request.scope).getlist(HEADER)
    if not names:
        return None
    if len(names) > 1 or not _is_key(names[0]):
        raise BadRequest(f"Idempotency-Key must be one header of 1 to {_MAX_KEY_LENGTH} printable ASCII characters")
    words = (request.scope["path"], dialect, caller.account or "", *extra_parts)
    return IdempotentRequest(caller.key_digest, names[0], fingerprint(words, body))


def fingerprint(parts: Iterable[str], body: bytes) -> str:
    """Return a SHA-256 over all parts of a request, each with its length before it."""
    digest = hashlib.sha256()
    for part in (*(word.encode(errors="surrogateescape") for word in parts), body):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def _is_key(text: str) -> bool:
    return 0 < len(text) <= _MAX_KEY_LENGTH and text.isascii() and text.isprintable()


class ResponseRecorder:
    """Records a response message by message, unless it is too large to be stored."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` is the limit for a body."""
        self._max_bytes = max_bytes
        self._status = 0
        self._headers: tuple[tuple[str, str], ...] = ()
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, message: Message) -> bool:
        """Record the next message. True if it is the last."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = ((name.decode(), value.decode()) for name, value in message["headers"])
            self._headers = tuple(header for header in headers if not header[0].startswith(_UNREPLAYED_PREFIX))
            return False
        body = message.get("body", b"")
        if body != sse.KEEP_ALIVE:
            self._size += len(body)
            # A body that is too large is not stored, so it need not be held in memory.
            if self.is_too_large:
                self._parts.clear()
            else:
                self._parts.append(body)
        return not message.get("more_body", False)

    @property
    def is_too_large(self) -> bool:
        """Whether the body is larger than the limit."""
        return self._size > self._max_bytes

    def stored_response(self) -> StoredResponse | None:
        """Return the whole response; None if it is too large."""
        return None if self.is_too_large else StoredResponse(self._status, self._headers, b"".join(self._parts))


class _ResponseSender:
    """Sends to the client. A stream that has to wait may begin before its answer exists."""

    def __init__(self, send: Send, options: ResponseOptions) -> None:
        self._send = send
        self._options = options
        self._started = False
        self._refused = False
        self._last_sent = time.monotonic()

    async def keep_alive(self) -> None:
        """Send a comment if the stream was silent for too long."""
        if not self._options.decoded.stream or time.monotonic() - self._last_sent < self._options.keep_alive_seconds:
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
        """Send a message of a response, without its start if the stream has begun already."""
        if self._refused:
            return
        if not self._started or message["type"] != "http.response.start":
            await self._send(message)
        elif message["status"] != 200:
            await self._end_with_error(message["status"])

    async def _end_with_error(self, status: int) -> None:
        self._refused = True
        error = BadRequest(f"The request was refused with status {status}. Send it without a stream to get the reason")
        events = self._options.decoded.builder.failure(self._options.errors.render_event(error))
        frame = b"".join(map(sse.frame, events))
        await self._send({"type": "http.response.body", "body": frame, "more_body": False})


class IdempotentResponse(Response):
    """Answers a request with an Idempotency-Key by running it, or by replaying the response of an equal one."""

    def __init__(
        self,
        response: GenerationResponse,
        store: IdempotencyStore,
        idempotent_request: IdempotentRequest,
        options: ResponseOptions,
    ) -> None:
        """`response` runs the request. It is stored if it is final when its last message comes."""
        super().__init__()
        self._response = response
        self._store = store
        self._idempotent_request = idempotent_request
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = _ResponseSender(send, self._options)
        try:
            state = await self._wait_for_state(receive, sender)
        except DragomanError as error:
            await self._send_error(error, scope, receive, sender)
            return
        match state:
            case Acquired():
                await self._run(state, scope, receive, sender)
            case StoredResponse():
                await _replay(state, sender)
            case RequestMismatch():
                conflict = IdempotencyConflict("Idempotency-Key was used for another request before")
                await self._send_error(conflict, scope, receive, sender)
            case NotStored():
                limit = self._store.max_response_bytes
                message = f"The request was answered, but its answer had more than {limit} bytes and was not kept"
                conflict = IdempotencyConflict(f"{message}. Use another Idempotency-Key to run it again")
                await self._send_error(conflict, scope, receive, sender)

    async def _wait_for_state(self, receive: Receive, sender: _ResponseSender) -> IdempotencyState | None:
        """Wait until no equal request is running, and return the state; None if the client disconnects."""
        poll_seconds = MIN_POLL_SECONDS
        disconnected = asyncio.create_task(wait_for_disconnect(receive))
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

        async def receive_until_too_large() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                # Only a response that cannot be stored is useless without its client.
                await too_large.wait()
            return message

        async def record(message: Message) -> None:
            is_last = recorder.add(message)
            if recorder.is_too_large:
                too_large.set()
            if is_last and self._response.is_final:
                # Before the client has it all: a request that a client saw answered is never run again.
                await self._store.store(self._idempotent_request, claim, recorder.stored_response())
            await sender.send(message)

        waiting = {name: value for name, value in scope.items() if name != ON_DISCONNECT}
        try:
            await self._response(waiting, receive_until_too_large, record)
        finally:
            self._store.release(self._idempotent_request, claim)

    async def _send_error(self, error: DragomanError, scope: Scope, receive: Receive, sender: _ResponseSender) -> None:
        response = error_response(self._options.errors.render(error), self._options.headers)
        await response(scope, receive, sender.send)


async def _replay(stored: StoredResponse, sender: _ResponseSender) -> None:
    headers = [(name.encode(), value.encode()) for name, value in (*stored.headers, REPLAYED)]
    await sender.send({"type": "http.response.start", "status": stored.status, "headers": headers})
    await sender.send({"type": "http.response.body", "body": stored.body, "more_body": False})
