import asyncio
import contextlib
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.gateway.routing.leases import QueueFull, ReplicaLease, ReplicaLeases
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

NOTHING = (0, 0)


class Replica:
    """A replica with a number of places."""

    def __init__(self, leases: ReplicaLeases, name: str, places: int) -> None:
        self.leases = leases
        self.name = name
        self.places = places

    def choose(self) -> str | None:
        return self.name if self.leases.in_flight(self.name).requests < self.places else None


async def turn() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def acquired(task: "asyncio.Task[ReplicaLease]") -> ReplicaLease:
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        return await task


async def test_a_lease_counts_until_the_end_of_its_block_however_it_ends() -> None:
    leases = ReplicaLeases()
    with contextlib.suppress(ZeroDivisionError), await leases.acquire(lambda: "a", 7) as lease:
        assert leases.in_flight("a") == (1, 7)
        with await leases.acquire(lambda: "a", 5):
            assert leases.in_flight("a") == (2, 12)
        raise ZeroDivisionError
    assert leases.in_flight("a") == NOTHING
    lease.release()
    assert leases.in_flight("a") == NOTHING


async def test_those_who_wait_are_served_in_order_of_arrival() -> None:
    leases = ReplicaLeases()
    replica = Replica(leases, "a", 1)
    held = await leases.acquire(replica.choose, 1)
    tasks = [asyncio.create_task(leases.acquire(replica.choose, 1)) for _ in range(3)]
    await turn()
    for number, task in enumerate(tasks):
        held.release()
        # It is taken at once: a request that comes now waits behind the others.
        assert leases.in_flight("a").requests == 1
        assert leases.waiting == 2 - number
        held = await acquired(task)
    held.release()
    assert leases.in_flight("a") == NOTHING


async def test_a_request_overtakes_those_that_wait_for_another_replica() -> None:
    leases = ReplicaLeases()
    full, free = Replica(leases, "full", 0), Replica(leases, "free", 1)
    waiting = asyncio.create_task(leases.acquire(full.choose, 1))
    await turn()
    with await acquired(asyncio.create_task(leases.acquire(free.choose, 1))) as lease:
        assert lease.replica == "free"
    full.places = 1
    leases.notify()
    (await acquired(waiting)).release()


async def test_a_request_does_not_overtake_one_that_can_use_a_place_of_which_nobody_was_notified() -> None:
    leases = ReplicaLeases()
    replica = Replica(leases, "a", 0)
    first = asyncio.create_task(leases.acquire(replica.choose, 1))
    await turn()
    replica.places = 1
    second = asyncio.create_task(leases.acquire(replica.choose, 1))
    (await acquired(first)).release()
    (await acquired(second)).release()


async def test_more_than_may_wait_are_refused() -> None:
    leases = ReplicaLeases(max_waiting=1)
    waiting = asyncio.create_task(leases.acquire(lambda: None, 1))
    await turn()
    with pytest.raises(QueueFull, match="1 requests wait"):
        await leases.acquire(lambda: None, 1)
    waiting.cancel()
    await turn()
    assert leases.waiting == 0


async def test_a_wait_that_ends_with_the_deadline_leaves_the_queue() -> None:
    leases = ReplicaLeases()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await leases.acquire(lambda: None, 1)
    assert leases.waiting == 0


async def test_a_place_given_to_a_request_that_is_cancelled_in_that_moment_goes_to_the_next() -> None:
    leases = ReplicaLeases()
    replica = Replica(leases, "a", 1)
    held = await leases.acquire(replica.choose, 1)
    first, second = (asyncio.create_task(leases.acquire(replica.choose, 1)) for _ in range(2))
    await turn()
    held.release()
    first.cancel()
    lease = await acquired(second)
    assert first.cancelled()
    assert leases.in_flight("a") == (1, 1)
    lease.release()
    assert leases.in_flight("a") == NOTHING


@given(seed=st.integers(0, 2**32), places=st.lists(st.integers(1, 3), min_size=1, max_size=3))
@settings(max_examples=50)
def test_counts_never_exceed_the_places_and_return_to_zero_whoever_is_cancelled(seed: int, places: list[int]) -> None:
    asyncio.run(_disturb(random.Random(seed), places))


async def _disturb(source: random.Random, places: list[int]) -> None:
    leases = ReplicaLeases(max_waiting=10)
    replicas = [Replica(leases, str(number), count) for number, count in enumerate(places)]
    ends: Counter[str] = Counter()

    async def request() -> None:
        usable = source.sample(replicas, source.randint(1, len(replicas)))
        tokens = source.randint(0, 9)
        try:
            with await leases.acquire(lambda: next(filter(None, (each.choose() for each in usable)), None), tokens):
                for _ in range(source.randint(0, 4)):
                    await asyncio.sleep(0)
                    for replica in replicas:
                        assert leases.in_flight(replica.name).requests <= replica.places
            ends["served"] += 1
        except QueueFull:
            ends["refused"] += 1

    tasks = []
    for _ in range(60):
        tasks.append(asyncio.create_task(request()))
        for _ in range(source.randint(0, 2)):
            await asyncio.sleep(0)
        if source.random() < 0.4:
            source.choice(tasks).cancel()
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
    assert ends.total() == sum(result is None for result in results) > 0
    assert leases.waiting == 0
    assert [leases.in_flight(replica.name) for replica in replicas] == [NOTHING] * len(replicas)
