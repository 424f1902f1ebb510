"""Counts of events in the last seconds."""

from collections import deque
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns seconds that never go backwards, as time.monotonic does."""


class RecentCounts:
    """Counts two kinds of events of the last seconds, in memory that does not grow with their number.

    Events are counted by whole seconds: an event counts for `seconds` to `seconds` + 1.
    """

    def __init__(self, seconds: int, clock: Clock) -> None:
        self._seconds = seconds
        self._clock = clock
        self._buckets: deque[tuple[int, list[int]]] = deque()
        self._totals = [0, 0]

    def add(self, first: int = 0, second: int = 0) -> None:
        """Count events of the two kinds now."""
        now = int(self._clock())
        if not self._buckets or self._buckets[-1][0] != now:
            self._forget_old()
            self._buckets.append((now, [0, 0]))
        for totals in (self._buckets[-1][1], self._totals):
            totals[0] += first
            totals[1] += second

    def totals(self) -> tuple[int, int]:
        """Return the numbers of recent events of the two kinds."""
        self._forget_old()
        return self._totals[0], self._totals[1]

    def clear(self) -> None:
        """Forget all events."""
        self._buckets.clear()
        self._totals = [0, 0]

    def _forget_old(self) -> None:
        oldest = int(self._clock()) - self._seconds
        while self._buckets and self._buckets[0][0] < oldest:
            _, (first, second) = self._buckets.popleft()
            self._totals[0] -= first
            self._totals[1] -= second
