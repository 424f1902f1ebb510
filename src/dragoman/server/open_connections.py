"""How many connections one worker serves, in all and for each client."""

import time
from collections import Counter
from collections.abc import Container

from dragoman.core import logs
from dragoman.core.addresses import client_network

_WARNING_SECONDS = 10.0
"""Refused connections are logged at most so often."""

_log = logs.get_logger(__name__)


class OpenConnections:
    """The open connections of one worker, counted in all and by client."""

    def __init__(self, limit: int, limit_per_address: int, shared_addresses: Container[str]) -> None:
        """`shared_addresses` are those of proxies, behind which are many clients: only `limit` applies to them."""
        self._limit = limit
        self._limit_per_address = limit_per_address
        self._shared_addresses = shared_addresses
        self._by_client: Counter[str] = Counter()
        """By address, of IPv6 by network: a customer has as many IPv6 addresses as he likes."""
        self._total = 0
        self._refused = 0
        self._last_warning = float("-inf")

    def change_limits(self, limit: int, limit_per_address: int, shared_addresses: Container[str]) -> None:
        """Apply other limits to connections that are added from now on."""
        self._limit, self._limit_per_address, self._shared_addresses = limit, limit_per_address, shared_addresses

    def add(self, address: str) -> bool:
        """Count a connection. False if there are too many, and then it is not counted."""
        client = client_network(address)
        is_crowded = self._by_client[client] >= self._limit_per_address and address not in self._shared_addresses
        if self._total >= self._limit or is_crowded:
            self._warn()
            return False
        self._total += 1
        self._by_client[client] += 1
        return True

    def remove(self, address: str) -> None:
        """Forget a connection that `add` counted."""
        self._total -= 1
        client = client_network(address)
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]

    def _warn(self) -> None:
        self._refused += 1
        now = time.monotonic()
        if now - self._last_warning >= _WARNING_SECONDS:
            _log.warning("connections_refused", refused=self._refused, open=self._total)
            self._refused, self._last_warning = 0, now
