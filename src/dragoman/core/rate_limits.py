"""What is left of a key's limits per minute."""

from typing import NamedTuple

import msgspec


class Allowance(msgspec.Struct, frozen=True):
    """How much of a limit per minute is used."""

    limit: int
    used: int
    """In the sliding window of the last 60 seconds; what was refused is not in it."""
    resets_in: int
    """Seconds until the oldest of it leaves the window."""

    @property
    def remaining(self) -> int:
        """What may still be used now; at least 0."""
        return max(0, self.limit - self.used)


class Allowances(NamedTuple):
    """A key's limits per minute; None: without one."""

    requests: Allowance | None = None
    tokens: Allowance | None = None


NO_LIMITS = Allowances()
