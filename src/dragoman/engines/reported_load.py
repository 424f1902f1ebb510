"""What a server reports of its load, as far as it is that of others."""

import time
from collections.abc import Callable

import msgspec

WANTED_SECONDS = 10.0
"""Time for which reports go on after somebody has read one."""


class ReportedLoad(msgspec.Struct, frozen=True, kw_only=True):
    """The load of a server at one moment."""

    other_requests: int
    """Requests that run or wait there and were not sent by this process."""
    kv_usage: float = 0.0
    """The share of the KV cache that running requests use, 0 to 1. 0 also if that is not reported."""
    cache_tokens: int | None = None
    """Tokens that the KV cache holds; None: not reported."""
    active_adapters: frozenset[str] = frozenset()
    waiting_adapters: frozenset[str] = frozenset()
    """Adapters of requests that wait there, by their qualified names."""
    max_adapters: int | None = None
    """Adapters that can be active together; None: not reported."""


class LoadReports:
    """The latest report of one server. It is old after a time, and then there is none."""

    def __init__(self, max_age_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_age_seconds = max_age_seconds
        self._clock = clock
        self._latest: ReportedLoad | None = None
        self._reported_at = self._read_at = -max(max_age_seconds, WANTED_SECONDS)

    def report(self, load: ReportedLoad) -> None:
        """Note the load now."""
        self._latest = load
        self._reported_at = self._clock()

    def read(self) -> ReportedLoad | None:
        """Return the latest report. None: there is none, or it is old."""
        now = self._read_at = self._clock()
        return self._latest if now - self._reported_at <= self._max_age_seconds else None

    def are_wanted(self) -> bool:
        """Whether somebody has asked for a report lately."""
        return self._clock() - self._read_at < WANTED_SECONDS
