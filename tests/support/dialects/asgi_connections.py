"""Connections as an ASGI server sees them, for what HTTP clients cannot observe."""

import asyncio
import json
from collections.abc import Callable, Mapping

from starlette.types import ASGIApp, Message

from dragoman.dialects.http.generation_response import ON_DISCONNECT
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


class AsgiConnection:
    """The server's side of a connection: the messages it gives the app, and those it is sent."""

    def __init__(self, body: bytes, *, disconnects: bool = False, last_write_seconds: float = 0.0) -> None:
        self.sent: list[Message] = []
        self.disconnected = asyncio.Event()
        self.reports: list[Callable[[], None]] = []
        """What a server that reports disconnects would call."""
        self._sent_more = asyncio.Event()
        self._incoming: list[Message] = [{"type": "http.request", "body": body, "more_body": disconnects}]
        self._disconnects = disconnects
        self._last_write_seconds = last_write_seconds

    async def receive(self) -> Message:
        if self._incoming:
            return self._incoming.pop()
        if not self._disconnects:
            await self.disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            await asyncio.wait({asyncio.create_task(self.disconnected.wait())}, timeout=self._last_write_seconds)
        self.sent.append(message)
        self._sent_more.set()

    def disconnect(self) -> None:
        """Disconnect, and report it."""
        self.disconnected.set()
        while self.reports:
            self.reports.pop()()

    async def wait_until(self, condition: Callable[[list[bytes]], bool]) -> None:
        """Wait until the bodies sent so far meet a condition."""
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while not condition(self.bodies):
                self._sent_more.clear()
                await self._sent_more.wait()

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]


class DisconnectingClient:
    """One POST. The client disconnects after `disconnect_after` messages; 0: immediately, None: never."""

    def __init__(self, path: str, body: Mapping[str, object], key: str, *, disconnect_after: int | None) -> None:
        self.sent: list[Message] = []
        self._scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "headers": [(b"host", b"localhost"), (b"authorization", f"Bearer {key}".encode())],
            "query_string": b"",
        }
        self._incoming: list[Message] = [{"type": "http.request", "body": json.dumps(body).encode()}]
        self._disconnect_after = disconnect_after
        self._disconnected = asyncio.Event()
        self._reports: list[Callable[[], None]] = []

    async def send_to(self, app: ASGIApp) -> None:
        """Run the app until it has finished with this request. Disconnects are reported as our own server does."""
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            await app({**self._scope, ON_DISCONNECT: self._on_disconnect}, self._receive, self._send)

    def _on_disconnect(self, report: Callable[[], None]) -> None:
        self._reports.append(report)
        if self._disconnect_after == 0:
            self._report()

    def _report(self) -> None:
        while self._reports:
            asyncio.get_running_loop().call_soon(self._reports.pop())

    async def _receive(self) -> Message:
        if self._incoming:
            return self._incoming.pop()
        if self._disconnect_after != 0:
            await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
        if self._disconnect_after is not None and len(self.sent) >= self._disconnect_after:
            self._disconnected.set()
            self._report()

    @property
    def request_id(self) -> str | None:
        """The request's id; None if the client disconnected before the answer began."""
        for message in self.sent:
            if message["type"] == "http.response.start":
                return str(dict(message["headers"])[b"x-request-id"].decode())
        return None

    @property
    def text(self) -> str:
        """The text of a stream of completions, as far as it was received."""
        frames = b"".join(message.get("body", b"") for message in self.sent).split(b"\n\n")
        documents = [json.loads(frame.removeprefix(b"data: ")) for frame in frames if frame.startswith(b"data: {")]
        choices = [choice for document in documents for choice in document.get("choices", [])]
        return "".join(choice["text"] for choice in choices)
