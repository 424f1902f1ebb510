"""The thread that describes images, and who waits for it: owners take turns, and there is room for so many only."""

import asyncio
import itertools
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dragoman.core.errors import Overloaded
from dragoman.core.request import QUEUED_PRIORITY_OFFSET
from dragoman.engines.llama.process.displacement import displaceable
from dragoman.engines.llama.wire import messages

Result = TypeVar("Result")

_MAX_WAITING_BYTES = 2**30
"""The most bytes of all images that wait."""


class ImageTask:
    """What describes the images of one request."""

    def __init__(self, *, owner: str, is_queued: bool, size: int, is_wanted: Callable[[], bool]) -> None:
        """`size`: bytes of the images. `is_wanted` turns false when the request is cancelled."""
        self.owner = owner
        self.is_queued = is_queued
        self.size = size
        self.is_wanted = is_wanted
        self.turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether the thread is its own; False: it was cancelled. Overloaded: it lost its place to another one."""


class ImageQueue:
    """Runs one task after another. Its methods are called on the event loop."""

    def __init__(self, max_waiting: int, max_waiting_bytes: int = _MAX_WAITING_BYTES) -> None:
        """`max_waiting`: the most tasks that wait, those of jobs left out where a client waits."""
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._thread = ThreadPoolExecutor(1, "image encoder")
        self._is_busy = False
        self._waiting: list[ImageTask] = []
        """Oldest first."""
        self._turn_numbers = itertools.count(1)
        self._last_turns: dict[str, int] = {}
        """Of the owner whose turn it is, and of those that wait: the number of the last turn."""
        self._last_seconds = 0.0
        """What the last task took."""

    async def run(self, task: ImageTask, work: Callable[[], Result]) -> Result | None:
        """Run the work on the thread when it is the owner's turn. None: the task was cancelled before.

        Raises Overloaded if too many wait. If another owner has two more of them, its youngest is refused instead.
        """
        if self._is_busy:
            self._make_room(task)
            self._waiting.append(task)
            if not await task.turn:
                return None
        self._is_busy = True
        self._note_turn(task)
        started = time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._last_seconds = time.monotonic() - started
            self._pass_turn()

    def _note_turn(self, task: ImageTask) -> None:
        owners = [one.owner for one in (*self._waiting, task)]
        self._last_turns = {owner: self._last_turns.get(owner, 0) for owner in owners}
        self._last_turns[task.owner] = next(self._turn_numbers)

    def _pass_turn(self) -> None:
        self._drop_cancelled()
        self._is_busy = bool(self._waiting)
        if self._waiting:
            # The oldest of those that are equal.
            following = min(self._waiting, key=lambda task: (task.is_queued, self._last_turns.get(task.owner, 0)))
            self._waiting.remove(following)
            following.turn.set_result(True)

    def _drop_cancelled(self) -> None:
        waiting = [task for task in self._waiting if task.is_wanted() and not task.turn.done()]
        for task in self._waiting:
            if not (task in waiting or task.turn.done()):
                task.turn.set_result(False)
        self._waiting = waiting

    def _make_room(self, task: ImageTask) -> None:
        """Refuse others for the task until there is room. Raises Overloaded."""
        if self._is_full(task):
            self._drop_cancelled()
        while self._is_full(task):
            reason = f"{len(self._waiting)} requests with images are waiting already"
            error = Overloaded(reason, math.ceil(self._last_seconds))
            displaced = self._displaced_by(task)
            if displaced is None:
                raise error
            self._waiting.remove(displaced)
            displaced.turn.set_exception(error)

    def _is_full(self, new: ImageTask) -> bool:
        """Whether too many wait that go before the new one. Jobs come after all others."""
        sizes = [task.size for task in self._waiting if task.is_queued <= new.is_queued]
        return len(sizes) >= self._max_waiting or (len(sizes) > 0 and sum(sizes) + new.size > self._max_waiting_bytes)

    def _displaced_by(self, new: ImageTask) -> ImageTask | None:
        """Return the youngest task of the owner with the most. None if it has not two more than the new one's owner.

        Jobs displace jobs only.
        """
        equals = (task for task in self._waiting if task.is_queued == new.is_queued)
        candidates = displaceable(equals, new.owner)
        return candidates[-1] if candidates else None


def image_task(
    command: messages.GenerateCommand, prompt: messages.ImagePrompt, is_wanted: Callable[[], bool]
) -> ImageTask:
    """Return the task of describing a prompt's images."""
    return ImageTask(
        owner=command.owner,
        is_queued=command.priority >= QUEUED_PRIORITY_OFFSET,
        size=sum(len(placed.image.pixels) for placed in prompt.images),
        is_wanted=is_wanted,
    )
