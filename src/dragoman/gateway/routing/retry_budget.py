"""How often and how soon attempts are repeated, so that an outage does not multiply the load."""

import time
from collections.abc import Callable

from dragoman.gateway.routing.recent_counts import Clock, RecentCounts

RETRY_SHARE = 0.2
"""Further attempts, of the recent requests."""

MIN_RETRIES_PER_SECOND = 3
"""Further attempts that are allowed besides, so that a few requests can be retried too."""

WINDOW_SECONDS = 10

FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.05, 1.0


class RetryBudget:
    """Allows further attempts as a share of the recent requests of one deployment."""

    def __init__(
        self,
        *,
        share: float = RETRY_SHARE,
        min_per_second: int = MIN_RETRIES_PER_SECOND,
        clock: Clock = time.monotonic,
    ) -> None:
        self._share = share
        self._min_retries = min_per_second * WINDOW_SECONDS
        self._counts = RecentCounts(WINDOW_SECONDS, clock)

    def record_request(self) -> None:
        """Count a request, whatever becomes of it."""
        self._counts.add(first=1)

    def try_spend(self) -> bool:
        """Count a further attempt and return True, or return False if the budget does not allow one now."""
        if self.remaining < 1:
            return False
        self._counts.add(second=1)
        return True

    @property
    def remaining(self) -> int:
        """How many further attempts are allowed now."""
        requests, retries = self._counts.totals()
        return max(0, self._min_retries + int(self._share * requests) - retries)


def backoff_seconds(attempt: int, random: Callable[[], float]) -> float:
    """Return the pause before the same replica is tried again, after its failed attempt number `attempt`, from 1 on.

    `random` returns numbers from 0 to 1. The pause is a random part of the longest one, which doubles with each
    attempt: clients that failed in the same moment do not come back in the same moment.
    """
    # The exponent is bounded to keep the power within the range of a float.
    return random() * min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(attempt - 1, 64))
