"""Requests and tokens in flight to each replica of a deployment, and the queue for a free place."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from dragoman.gateway.routing.router_options import DEFAULT_MAX_WAITING

Choose = Callable[[], str | None]
"""Returns the id of the replica to use, which has a free place. None: no replica can be used now."""


class QueueFull(Exception):
    """As many requests wait for a free place as may wait."""


class InFlight(NamedTuple):
    """What one replica works on for this process."""

    requests: int
    tokens: int
    """Prompt tokens and expected answers."""


_NOTHING = (0, 0)


class ReplicaLease:
    """A place at a replica. Use it in a `with` block, whose end releases it however it ends."""

    def __init__(self, leases: "ReplicaLeases", replica: str, tokens: int) -> None:
        self.replica = replica
        self.tokens = tokens
        self._leases: ReplicaLeases | None = leases

    def release(self) -> None:
        """Give the place back. Further calls do nothing."""
        if (leases := self._leases) is not None:
            self._leases = None
            leases._return(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class ReplicaLeases:
    """Counts what is in flight to the replicas of one deployment, and serves those who wait in order of arrival."""

    def __init__(self, max_waiting: int = DEFAULT_MAX_WAITING) -> None:
        self._max_waiting = max_waiting
        self._in_flight: dict[str, list[int]] = {}
        """Requests and tokens of each replica that has any."""
        self._waiting: OrderedDict[asyncio.Future[ReplicaLease], tuple[Choose, int]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many requests wait for a place."""
        return len(self._waiting)

    def in_flight(self, replica: str) -> InFlight:
        """Return what is in flight to a replica."""
        return InFlight(*self._in_flight.get(replica, _NOTHING))

    def try_acquire(self, choose: Choose, tokens: int) -> ReplicaLease | None:
        """Take a place at the replica that `choose` returns. None: others wait, or it returns none."""
        if self._waiting or (replica := choose()) is None:
            return None
        return self._take(replica, tokens)

    async def acquire(self, choose: Choose, tokens: int) -> ReplicaLease:
        """Take a place at the replica that `choose` returns, as soon as it returns one.

        `choose` is called now, unless others wait, and again after each release and notification. A request that can
        use a place overtakes those before it that cannot. `choose` must not raise. The caller bounds the wait, with
        asyncio.timeout. Raises QueueFull.
        """
        if (lease := self.try_acquire(choose, tokens)) is not None:
            return lease
        if len(self._waiting) >= self._max_waiting:
            raise QueueFull(f"{len(self._waiting)} requests wait for a replica already")
        place: asyncio.Future[ReplicaLease] = asyncio.get_running_loop().create_future()
        self._waiting[place] = choose, tokens
        # Those before it may be unable to use a place that this request can use.
        if len(self._waiting) > 1:
            self._offer(next(iter(self._waiting)))
            self._offer(place)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                place.result().release()
            raise
        finally:
            self._waiting.pop(place, None)

    def notify(self) -> None:
        """Ask those who wait to choose again: a replica may have come back, or been added."""
        for place in list(self._waiting):
            self._offer(place)

    def _offer(self, place: "asyncio.Future[ReplicaLease]") -> bool:
        """Let one who waits choose. Return whether it has a place now."""
        if place.done():
            return False
        choose, tokens = self._waiting[place]
        if (replica := choose()) is None:
            return False
        del self._waiting[place]
        place.set_result(self._take(replica, tokens))
        return True

    def _take(self, replica: str, tokens: int) -> ReplicaLease:
        in_flight = self._in_flight.setdefault(replica, [0, 0])
        in_flight[0] += 1
        in_flight[1] += tokens
        return ReplicaLease(self, replica, tokens)

    def _return(self, lease: ReplicaLease) -> None:
        in_flight = self._in_flight[lease.replica]
        in_flight[0] -= 1
        in_flight[1] -= lease.tokens
        if not in_flight[0]:
            del self._in_flight[lease.replica]
        # One place is free, and perhaps more: a replica that has just returned has more of them by and by.
        has_served = False
        for place in list(self._waiting):
            if self._offer(place):
                has_served = True
            elif has_served:
                return
