"""The memory of decoded images."""

import asyncio
import random
from collections.abc import Awaitable

import pytest

from dragoman.engines.llama.worker.pixel_budget import PixelBudget
from tests.support.timeouts import TEST_TIMEOUT_SECONDS


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_owners_take_turns_and_nothing_smaller_overtakes() -> None:
    budget, order = PixelBudget(10), list[str]()

    async def take(owner: str, size: int) -> None:
        await budget.acquire(owner, size)
        order.append(f"{owner}{size}")

    await budget.acquire("a", 10)
    tasks = [asyncio.create_task(take(*each)) for each in (("a", 5), ("a", 4), ("b", 7), ("c", 1))]
    await _settle()
    budget.release(6)
    await _settle()
    assert order == ["a5"]
    await take_nothing_yet(take("d", 1))
    budget.release(6)
    await _settle()
    assert order == ["a5", "b7"]
    budget.release(2)
    await _settle()
    assert order == ["a5", "b7", "c1"]
    budget.release(10)
    await asyncio.gather(*tasks)
    assert order == ["a5", "b7", "c1", "a4"]


async def take_nothing_yet(taking: Awaitable[None]) -> None:
    """Let a task wait, and cancel it."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(taking, 0.01)


async def test_no_more_is_given_than_there_is_whoever_is_cancelled() -> None:
    source = random.Random(1)
    budget, held, most = PixelBudget(100), 0, 0

    async def hold(owner: str, size: int) -> None:
        nonlocal held, most
        await budget.acquire(owner, size)
        held += size
        most = max(most, held)
        try:
            await asyncio.sleep(0)
        finally:
            held -= size
            budget.release(size)

    for _ in range(50):
        tasks = [
            asyncio.create_task(hold(str(source.randrange(4)), source.randint(1, budget.max_bytes))) for _ in range(12)
        ]
        for task in source.sample(tasks, 5):
            for _ in range(source.randrange(4)):
                await asyncio.sleep(0)
            task.cancel()
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            await asyncio.gather(*tasks, return_exceptions=True)
    assert most <= budget.max_bytes
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        await budget.acquire("a", budget.max_bytes)
