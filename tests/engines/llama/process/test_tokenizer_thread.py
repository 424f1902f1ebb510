"""Whose prompts are tokenized first."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from dragoman.engines.llama.process.preprocessor import TokenizerThread
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


def _wanted() -> bool:
    return True


class Work:
    """Work that is recorded, and takes until it may end."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.may_end = threading.Semaphore(0)
        self.thread = TokenizerThread()
        self.tasks: list[asyncio.Task[str | None]] = []

    def add(
        self, name: str, owner: str, is_wanted: Callable[[], bool] = _wanted, *, is_queued: bool = False
    ) -> asyncio.Task[str | None]:
        def work() -> str:
            assert self.may_end.acquire(timeout=TEST_TIMEOUT_SECONDS)
            self.order.append(name)
            return name

        task = asyncio.create_task(self.thread.run(owner, work, is_wanted, is_queued=is_queued))
        self.tasks.append(task)
        return task

    async def finish(self) -> list[str | None]:
        self.may_end.release(len(self.tasks))
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            return await asyncio.gather(*self.tasks)


@pytest.fixture
async def work() -> AsyncIterator[Work]:
    work = Work()
    yield work
    work.may_end.release(100)


async def test_owners_take_turns_however_much_one_has_sent(work: Work) -> None:
    for number in range(20):
        work.add(f"a{number}", "a")
    for owner in ("b", "c"):
        work.add(owner, owner)
    await asyncio.sleep(0)
    await work.finish()
    assert work.order[0] == "a0"
    assert set(work.order[1:3]) == {"b", "c"}
    assert work.order[3:] == [f"a{number}" for number in range(1, 20)]


async def test_jobs_come_last(work: Work) -> None:
    for name, is_queued in (("a", False), ("job", True), ("b", False), ("c", False)):
        work.add(name, "one", is_queued=is_queued)
    await asyncio.sleep(0)
    assert await work.finish() == ["a", "job", "b", "c"]
    assert work.order == ["a", "b", "c", "job"]


async def test_what_is_not_wanted_any_more_is_left_out(work: Work) -> None:
    first = work.add("a", "one")
    unwanted = work.add("b", "one", lambda: False)
    cancelled = work.add("c", "one")
    last = work.add("d", "one")
    await asyncio.sleep(0)
    cancelled.cancel()
    work.tasks = [first, unwanted, last]
    assert await work.finish() == ["a", None, "d"]
    assert work.order == ["a", "d"]


async def test_a_failure_passes_the_turn(work: Work) -> None:
    def fail() -> None:
        raise ValueError("broken")

    failing = asyncio.create_task(work.thread.run("one", fail, _wanted))
    work.add("a", "one")
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="broken"):
        await failing
    assert await work.finish() == ["a"]
    work.add("b", "one")
    assert await work.finish() == ["a", "b"]
