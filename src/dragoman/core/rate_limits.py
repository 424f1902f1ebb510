"""The state of a key's limits per minute."""

from typing import NamedTuple

import msgspec


class Allowance(msgspec.Struct, frozen=True):
    """The state of one limit per minute."""

    limit: int
    used: int
    """In the sliding window of the last 60 seconds, without refused requests."""
    resets_in: int
    """Seconds until the oldest use leaves the window."""

    @property
    def remaining(self) -> int:
        """What may still be used now, at least 0."""
        return max(0, self.limit - self.used)


class Allowances(NamedTuple):
    """The state of a key's limits per minute; None: no such limit."""

    requests: Allowance | None = None
    tokens: Allowance | None = None


NO_LIMITS = Allowances()
