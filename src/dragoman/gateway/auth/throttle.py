"""Throttle clients that send wrong API keys. Valid keys are never delayed."""

import asyncio
import math
import time
from collections import OrderedDict, deque

from dragoman.core.addresses import client_network
from dragoman.core.bounded_dicts import put_last
from dragoman.core.context import Caller
from dragoman.core.errors import DragomanError, Limited, Unauthenticated

MAX_FAILURES = 20
"""Wrong keys per address and minute that are answered without delay."""

WINDOW_SECONDS = 60
DELAY_SECONDS = 1.0
"""Delay of the answer to each further wrong key."""

_MAX_ADDRESSES = 10_000


class AuthFailureLimiter:
    """Counts the wrong keys of the last minute by address, of IPv6 by network."""

    def __init__(self, max_addresses: int = _MAX_ADDRESSES) -> None:
        """Beyond `max_addresses`, the addresses that failed longest ago are evicted."""
        self._max_addresses = max_addresses
        self._failure_times: OrderedDict[str, deque[float]] = OrderedDict()

    async def throttle(self, caller: Caller, error: Unauthenticated) -> DragomanError:
        """Return the error to send to the caller of a wrong key, after the delay if there is one."""
        if (
            error.fault != "unknown"
            or (retry_after := self._record_failure(client_network(caller.address), time.monotonic())) == 0
        ):
            return error
        await asyncio.sleep(DELAY_SECONDS)
        return Limited("Too many requests with wrong API keys", retry_after)

    def _record_failure(self, network: str, now: float) -> int:
        """Record a failure. Return 0 below the limit, otherwise the seconds until the oldest failure expires."""
        times = self._failure_times.get(network) or deque(maxlen=MAX_FAILURES + 1)
        put_last(self._failure_times, network, times, self._max_addresses).append(now)
        oldest = times[0]
        if len(times) <= MAX_FAILURES or oldest <= now - WINDOW_SECONDS:
            return 0
        return math.ceil(oldest + WINDOW_SECONDS - now)
