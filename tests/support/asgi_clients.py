"""The server's side of a connection: what it gives the app, and what it was sent. A client may hang up at any time."""

import asyncio
import json
from collections.abc import Mapping

from starlette.types import ASGIApp, Message

from tests.support.timeouts import TEST_TIMEOUT_SECONDS


class DisconnectingClient:
    """One POST; the client hangs up after it was sent so many messages (0: at once), or never (None)."""

    def __init__(self, path: str, body: Mapping[str, object], key: str, *, disconnect_after: int | None) -> None:
        self.sent: list[Message] = []
        self._scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": [(b"authorization", f"Bearer {key}".encode())],
            "query_string": b"",
        }
        self._incoming: list[Message] = [{"type": "http.request", "body": json.dumps(body).encode()}]
        self._disconnect_after = disconnect_after
        self._disconnected = asyncio.Event()

    async def send_to(self, app: ASGIApp) -> None:
        """Until the app has nothing more to do for this request."""
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            await app(dict(self._scope), self._receive, self._send)

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

    @property
    def request_id(self) -> str | None:
        """None: the client was gone before the answer began."""
        for message in self.sent:
            if message["type"] == "http.response.start":
                return str(dict(message["headers"])[b"x-request-id"].decode())
        return None

    @property
    def text(self) -> str:
        """What came of the texts of a stream of completions."""
        frames = b"".join(message.get("body", b"") for message in self.sent).split(b"\n\n")
        documents = [json.loads(frame.removeprefix(b"data: ")) for frame in frames if frame.startswith(b"data: {")]
        choices = [choice for document in documents for choice in document.get("choices", [])]
        return "".join(choice["text"] for choice in choices)
