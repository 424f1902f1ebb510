"""When a message is tried, and how often."""

from collections.abc import Callable
from typing import NamedTuple

DELIVERY_LEASE_SECONDS = 30
"""So long after a try has begun it counts as failed if nobody has said how it ended. Longer than any try takes."""


class RetrySchedule(NamedTuple):
    """A message that is not delivered is tried again, each time after a longer pause."""

    max_attempts: int = 8
    """With the other values: the last one 16 to 21 hours after the first."""
    first_seconds: float = 10.0
    factor: float = 5.0
    max_seconds: float = 36_000.0

    def delay_after(self, attempt: int, random: Callable[[], float]) -> float | None:
        """Seconds between this try, from 1 on, and the next; None: it was the last one.

        Three quarters of what the schedule says, and up to a quarter more by chance: a receiver that was away is not
        told of everything at once. `random` gives numbers from 0 to 1.
        """
        if attempt >= self.max_attempts:
            return None
        # The exponent is bounded, so that the power is one that a float can be.
        full = min(self.max_seconds, self.first_seconds * self.factor ** min(attempt - 1, 64))
        return full * (0.75 + 0.25 * random())
