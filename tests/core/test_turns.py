"""Turns among owners, whatever is asked for and cancelled in between."""

import asyncio
import contextlib
import random

import pytest

from dragoman.core.errors import Limited
from dragoman.core.turns import Turns
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


class Work:
    """Work that is held until it is released, and a record of what was started."""

    def __init__(self, turns: Turns) -> None:
        self.started: list[str] = []
        self._turns = turns
        self._released: dict[asyncio.Task[None], asyncio.Event] = {}

    def ask(self, owner: str) -> "asyncio.Task[None]":
        """Ask for a turn."""
        released = asyncio.Event()
        task = asyncio.create_task(self._hold(owner, released))
        self._released[task] = released
        return task

    async def _hold(self, owner: str, released: asyncio.Event) -> None:
        async with self._turns.turn(owner):
            self.started.append(owner)
            await released.wait()

    async def release(self, task: "asyncio.Task[None]") -> None:
        """Let the work end."""
        self._released[task].set()
        await asyncio.wait_for(task, TEST_TIMEOUT_SECONDS)
        await settle()


async def settle() -> None:
    """Run what can run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_owners_take_turns_however_much_each_asks_for() -> None:
    work = Work(Turns(1, 10))
    tasks = [work.ask(owner) for owner in "aaaabbc"]
    await settle()
    assert work.started == ["a"]
    order = [tasks[0], tasks[4], tasks[6], tasks[1], tasks[5], tasks[2], tasks[3]]
    for task in order:
        await work.release(task)
    assert work.started == list("abcabaa")


async def test_an_owner_never_holds_two_places() -> None:
    work = Work(Turns(2, 10))
    tasks = [work.ask(owner) for owner in "aab"]
    await settle()
    assert work.started == ["a", "b"]
    await work.release(tasks[2])
    assert work.started == ["a", "b"]
    await work.release(tasks[0])
    assert work.started == ["a", "b", "a"]
    await work.release(tasks[1])


async def test_too_much_work_of_one_owner_is_refused_and_of_others_is_not() -> None:
    work = Work(Turns(1, 2))
    tasks = [work.ask(owner) for owner in "aaab"]
    await settle()
    with pytest.raises(Limited, match="2 large requests"):
        await work.ask("a")
    for task in (tasks[0], tasks[3], tasks[1], tasks[2]):
        await work.release(task)
    assert work.started == list("abaa")


async def test_cancelled_work_leaves_its_place_to_others() -> None:
    """Random requests, releases and cancellations, some of them in the turn of the event loop that gives the place."""
    rng = random.Random(1)
    turns = Turns(2, 100)
    work = Work(turns)
    tasks: list[asyncio.Task[None]] = []
    for _ in range(2000):
        if tasks and rng.random() < 0.6:
            task = tasks.pop(rng.randrange(len(tasks)))
            if rng.random() < 0.5:
                work._released[task].set()
            else:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        else:
            tasks.append(work.ask(rng.choice("abc")))
        if rng.random() < 0.5:
            await settle()
    for task in tasks:
        work._released[task].set()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), TEST_TIMEOUT_SECONDS)
    await settle()
    last = [work.ask(owner) for owner in "ab"]
    count = len(work.started)
    await settle()
    assert work.started[count:] == ["a", "b"]
    for task in last:
        await work.release(task)
