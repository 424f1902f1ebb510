"""A connection as an ASGI server sees it, where HTTP clients cannot look."""

import asyncio
from collections.abc import Callable

from starlette.types import Message

from tests.support.timeouts import TEST_TIMEOUT_SECONDS


class AsgiConnection:
    """The server's side of a connection: what it gives the app, and what it was sent."""

    def __init__(self, body: bytes, *, disconnects: bool = False, last_write_seconds: float = 0.0) -> None:
        self.sent: list[Message] = []
        self.disconnected = asyncio.Event()
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

    async def wait_until(self, condition: Callable[[list[bytes]], bool]) -> None:
        """Wait until what was sent is as it is to be."""
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while not condition(self.bodies):
                self._sent_more.clear()
                await self._sent_more.wait()

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]
