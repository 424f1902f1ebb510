"""A connection as an ASGI server sees it, where HTTP clients cannot look."""

import asyncio
from collections.abc import Callable

from starlette.types import Message

from tests.support.patience import PATIENCE_SECONDS


class Client:
    """The server's side of a connection: what it gives the app, and what it was sent."""

    def __init__(self, body: bytes, *, hangs_up: bool = False, last_write_takes: float = 0.0) -> None:
        self.sent: list[Message] = []
        self.gone = asyncio.Event()
        self._sent_more = asyncio.Event()
        self._incoming: list[Message] = [{"type": "http.request", "body": body, "more_body": hangs_up}]
        self._hangs_up = hangs_up
        self._last_write_takes = last_write_takes

    async def receive(self) -> Message:
        if self._incoming:
            return self._incoming.pop()
        if not self._hangs_up:
            await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            await asyncio.wait({asyncio.create_task(self.gone.wait())}, timeout=self._last_write_takes)
        self.sent.append(message)
        self._sent_more.set()

    async def until(self, told: Callable[[list[bytes]], bool]) -> None:
        """Wait until what was sent is as it is to be, for ten seconds."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not told(self.bodies):
                self._sent_more.clear()
                await self._sent_more.wait()

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]
