"""Notice that the clock of the database was set, upon which all leases look expired, or endless."""

import time
from collections.abc import Callable

from dragoman.jobs.storage.reader import ClockReading
from dragoman.jobs.values.options import CLOCK_TOLERANCE_SECONDS, LEASE_SECONDS


class ClockWatch:
    """Compares the database's clock with the machine's monotonic one, which nobody can set."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lead: tuple[float, float] | None = None
        """By how many seconds the database's clock is ahead of the monotonic one: at least, and at most."""
        self._steady_from = 0.0

    def is_steady(self, reading: ClockReading) -> bool:
        """Whether leases can be compared with the clock: it was not set within the time of a lease.

        Holders of leases have renewed them by then. What was before the first reading is not known.
        """
        wall = reading.wall / 1000
        lead = wall - reading.after, wall - reading.before
        if self._lead is not None:
            lowest, highest = self._lead
            if lead[0] > highest + CLOCK_TOLERANCE_SECONDS or lead[1] < lowest - CLOCK_TOLERANCE_SECONDS:
                self._steady_from = self._monotonic() + LEASE_SECONDS
        self._lead = lead
        return self._monotonic() >= self._steady_from
