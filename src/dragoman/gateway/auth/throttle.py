"""Who guesses keys is slowed down; nobody else notices."""

import asyncio
import ipaddress
import math
import time
from collections import OrderedDict, deque

from dragoman.core.context import Caller
from dragoman.core.errors import DragomanError, Limited, Unauthenticated

MAX_FAILURES = 20
"""Wrong keys in a minute that an address is told about at once."""

WINDOW_SECONDS = 60
DELAY_SECONDS = 1.0
"""How long the answer to each further one is held back."""

_MAX_ADDRESSES = 10_000
_IPV6_NETWORK_BITS = 64
"""What a single customer is usually given."""


class AuthFailureLimiter:
    """Wrong keys of the last minute, by address. A key that is right is never held back, wherever it comes from."""

    def __init__(self, max_addresses: int = _MAX_ADDRESSES) -> None:
        """Of more addresses, those that guessed longest ago are forgotten."""
        self._max_addresses = max_addresses
        self._failure_times: OrderedDict[str, deque[float]] = OrderedDict()

    async def throttle(self, caller: Caller, error: Unauthenticated) -> DragomanError:
        """What to tell a caller without a good key, when it is time to."""
        if (
            error.fault != "unknown"
            or (retry_after := self._record_failure(_network(caller.address), time.monotonic())) == 0
        ):
            return error
        await asyncio.sleep(DELAY_SECONDS)
        return Limited("Too many requests with wrong API keys", retry_after)

    def _record_failure(self, network: str, now: float) -> int:
        """Add a guess; 0 if there were few, else the seconds until the oldest is forgotten."""
        times = self._failure_times.setdefault(network, deque(maxlen=MAX_FAILURES + 1))
        self._failure_times.move_to_end(network)
        times.append(now)
        if len(self._failure_times) > self._max_addresses:
            self._failure_times.popitem(last=False)
        oldest = times[0]
        if len(times) <= MAX_FAILURES or oldest <= now - WINDOW_SECONDS:
            return 0
        return math.ceil(oldest + WINDOW_SECONDS - now)


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, _IPV6_NETWORK_BITS), strict=False))
