"""Owners take turns at the thread that describes images, and what waits for it is bounded."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from dragoman.core.errors import Overloaded
from dragoman.engines.llama.process.image_queue import ImageQueue, ImageTask
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


class _Tasks:
    """Tasks of a queue whose thread is held by the first one until `finish`."""

    def __init__(self, queue: ImageQueue, first_owner: str = "holder") -> None:
        self._queue = queue
        self._may_go_on = threading.Event()
        self.done: list[str] = []
        self.cancelled: set[str] = set()
        self._running = [asyncio.create_task(self._run(first_owner, "first", self._wait))]

    def _wait(self) -> None:
        assert self._may_go_on.wait(TEST_TIMEOUT_SECONDS)
        self.done.append("first")

    async def _run(self, owner: str, name: str, work: object, *, is_queued: bool = False, size: int = 1) -> str | None:
        task = ImageTask(owner=owner, is_queued=is_queued, size=size, is_wanted=lambda: name not in self.cancelled)
        try:
            await self._queue.run(task, work if callable(work) else lambda: self.done.append(name))
        except Overloaded:
            return name
        return None

    async def add(self, owner: str, name: str, *, is_queued: bool = False, size: int = 1) -> None:
        """Add a task, and let it wait."""
        self._running.append(asyncio.create_task(self._run(owner, name, None, is_queued=is_queued, size=size)))
        await asyncio.sleep(0)

    async def add_all(self, tasks: str) -> None:
        """Add tasks, of which the first character names the owner."""
        for name in tasks.split():
            await self.add(name[0], name)

    async def finish(self) -> Sequence[str]:
        """Let the thread go on, and return the tasks that were refused."""
        self._may_go_on.set()
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            return [name for name in await asyncio.gather(*self._running) if name is not None]


async def _tasks(queue: ImageQueue, first_owner: str = "holder") -> _Tasks:
    tasks = _Tasks(queue, first_owner)
    await asyncio.sleep(0)
    return tasks


async def test_owners_take_turns_and_of_one_owner_the_oldest_goes_first() -> None:
    tasks = await _tasks(ImageQueue(10), first_owner="a")
    await tasks.add_all("a1 a2 a3 b1 b2 c1")
    assert await tasks.finish() == []
    assert tasks.done == ["first", "b1", "c1", "a1", "b2", "a2", "a3"]


async def test_requests_of_jobs_come_after_those_that_somebody_waits_for() -> None:
    tasks = await _tasks(ImageQueue(10))
    await tasks.add("a", "job", is_queued=True)
    await tasks.add_all("b1 b2")
    assert await tasks.finish() == []
    assert tasks.done == ["first", "b1", "b2", "job"]


async def test_the_youngest_of_the_owner_with_the_most_is_refused_when_too_many_wait() -> None:
    tasks = await _tasks(ImageQueue(3))
    await tasks.add_all("a1 a2 a3 a4 b1 b2")
    assert await tasks.finish() == ["a3", "a4", "b2"]
    assert tasks.done == ["first", "a1", "b1", "a2"]


async def test_a_job_displaces_nobody_who_waits() -> None:
    tasks = await _tasks(ImageQueue(2))
    await tasks.add_all("a1 a2")
    await tasks.add("b", "job", is_queued=True)
    assert await tasks.finish() == ["job"]


async def test_nobody_who_waits_is_refused_because_of_jobs() -> None:
    tasks = await _tasks(ImageQueue(2))
    await tasks.add("a", "job", is_queued=True)
    await tasks.add("b", "another job", is_queued=True)
    await tasks.add_all("c1 c2")
    assert await tasks.finish() == []
    assert tasks.done == ["first", "c1", "c2", "job", "another job"]


async def test_what_waits_has_no_more_bytes_than_the_limit_unless_it_is_one_request() -> None:
    tasks = await _tasks(ImageQueue(10, max_waiting_bytes=100))
    await tasks.add("a", "large", size=1000)
    await tasks.add("a", "more")
    assert await tasks.finish() == ["more"]
    tasks = await _tasks(ImageQueue(10, max_waiting_bytes=100))
    await tasks.add("a", "half", size=50)
    await tasks.add("b", "other half", size=50)
    await tasks.add("c", "one more")
    assert await tasks.finish() == ["one more"]


async def test_cancelled_requests_leave_room_and_are_not_computed() -> None:
    tasks = await _tasks(ImageQueue(2))
    await tasks.add_all("a1 a2")
    tasks.cancelled |= {"a1", "a2"}
    await tasks.add_all("a3 a4")
    tasks.cancelled.add("a4")
    assert await tasks.finish() == []
    assert tasks.done == ["first", "a3"]


async def test_a_task_that_fails_passes_its_turn_on() -> None:
    def fail() -> None:
        raise LookupError

    queue = ImageQueue(2)
    for _ in range(2):
        with pytest.raises(LookupError):
            await queue.run(ImageTask(owner="a", is_queued=False, size=1, is_wanted=lambda: True), fail)
