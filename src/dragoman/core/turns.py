"""Turns: work that others wait for is done for one owner after the other, however much each of them asks for."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from dragoman.core.errors import Limited

_RETRY_AFTER_SECONDS = 2


class Turns:
    """Places for work. An owner has at most one at a time, and owners that wait get the next ones in turn."""

    def __init__(self, places: int, max_waiting: int) -> None:
        """One owner's work waits up to `max_waiting` times; one more is rejected."""
        self._free = places
        self._max_waiting = max_waiting
        self._running: set[str] = set()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By owner, the one whose turn is next first."""

    @contextlib.asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Hold a place for the block. Raises Limited if too much work of the owner waits."""
        await self._acquire(owner)
        try:
            yield
        finally:
            self._release(owner)

    async def _acquire(self, owner: str) -> None:
        if self._free and owner not in self._running:
            self._start(owner)
            return
        waiting = self._waiting.setdefault(owner, deque())
        if len(waiting) >= self._max_waiting:
            raise Limited(f"{len(waiting)} large requests of yours are waiting already", _RETRY_AFTER_SECONDS)
        place = asyncio.get_running_loop().create_future()
        waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # The place was given before the cancellation arrived.
                self._release(owner)
            elif place in self._waiting.get(owner, ()):
                self._waiting[owner].remove(place)
                self._end_waiting(owner)
            raise

    def _start(self, owner: str) -> None:
        self._free -= 1
        self._running.add(owner)

    def _release(self, owner: str) -> None:
        self._running.remove(owner)
        self._free += 1
        if owner in self._waiting:
            self._waiting[owner] = self._waiting.pop(owner)  # behind all others
        for following in [other for other in self._waiting if other not in self._running]:
            if self._give_place(following):
                return

    def _give_place(self, owner: str) -> bool:
        """Give the free place to the owner's next work. False if all of it was cancelled a moment ago."""
        waiting = self._waiting[owner]
        while waiting:
            place = waiting.popleft()
            if not place.done():
                self._start(owner)
                place.set_result(None)
                break
        self._end_waiting(owner)
        return owner in self._running

    def _end_waiting(self, owner: str) -> None:
        if not self._waiting[owner]:
            del self._waiting[owner]
