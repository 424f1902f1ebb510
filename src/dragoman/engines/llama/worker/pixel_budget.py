"""The memory of decoded images in a worker: so many bytes at a time, and owners that wait take turns."""

import asyncio
from collections import deque


class PixelBudget:
    """Bytes of pixels. Its methods are called on the event loop."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._free = max_bytes
        self._waiting: dict[str, deque[tuple[int, asyncio.Future[None]]]] = {}
        """By owner, the one whose turn it is first. Nothing smaller overtakes what waits for more room."""

    async def acquire(self, owner: str, size: int) -> None:
        """Wait for so many bytes, at most `max_bytes`. The caller releases them."""
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # The bytes were given before the cancellation arrived.
                self._free += size
            self._give()
            raise

    def release(self, size: int) -> None:
        """Return bytes."""
        self._free += size
        self._give()

    def _give(self) -> None:
        """Give what is free to those who wait, in turn."""
        while self._waiting:
            owner, waiting = next(iter(self._waiting.items()))
            size, turn = waiting[0]
            if not turn.done() and size > self._free:
                return
            waiting.popleft()
            del self._waiting[owner]
            if waiting:
                self._waiting[owner] = waiting  # behind all others
            if not turn.done():
                self._free -= size
                turn.set_result(None)
