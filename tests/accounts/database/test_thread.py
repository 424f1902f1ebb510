import asyncio
import threading

import pytest

from dragoman.accounts.database.connections import Database
from dragoman.accounts.database.thread import DatabaseThread
from dragoman.core.errors import Overloaded
from tests.support.manual_loop import advance, on_manual_loop


async def test_calls_run_one_after_the_other_and_a_limited_number_waits() -> None:
    thread = DatabaseThread(Database("sqlite:///unused.db"), max_waiting=3)
    go_on = threading.Event()
    order: list[int] = []
    first = asyncio.create_task(thread.run(go_on.wait))
    others = [asyncio.create_task(thread.run(order.append, number)) for number in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await thread.run(order.append, 9)
    go_on.set()
    await asyncio.gather(first, *others)
    await thread.run(order.append, 3)
    assert order == [0, 1, 3]
    await asyncio.to_thread(thread.close)


async def test_an_exception_of_a_call_is_raised_to_its_caller() -> None:
    thread = DatabaseThread(Database("sqlite:////nowhere/at/all.db"))
    with pytest.raises(ValueError, match="invalid literal"):
        await thread.run(int, "x")
    with pytest.raises(Overloaded, match="does not answer"):
        await thread.run(lambda: thread.database.engine.connect().close())
    thread.close()


@on_manual_loop
async def test_a_call_that_gets_no_answer_in_time_is_refused_and_those_behind_it_are_not_begun() -> None:
    thread = DatabaseThread(Database("sqlite:///unused.db"), timeout_seconds=10)
    go_on = threading.Event()
    begun: list[int] = []
    calls = (thread.run(go_on.wait), thread.run(begun.append, 1), thread.run_slow(begun.append, 2))
    *refused, last = [asyncio.create_task(call) for call in calls]
    await advance(0)
    await advance(10)
    for task in refused:
        with pytest.raises(Overloaded, match="does not answer"):
            await task
    assert thread.database.outage.is_active
    go_on.set()
    await last
    assert begun == [2]
    thread.close()
