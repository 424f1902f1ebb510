"""Limits per minute: a sliding window over buckets of one second, in the transaction that admits.

The window of second s covers the buckets s - 60 to s. Two requests less than 60 seconds apart are never in different
windows, so no 60 seconds exceed the limit, over any number of processes and machines. Because seconds are whole, a
request counts for 60 to 61 seconds.
"""

from collections.abc import Iterable

import msgspec

from dragoman.core.errors import RequestRateLimited, RequestTooLarge, TokenRateLimited
from dragoman.core.rate_limits import Allowance, Allowances

WINDOW_SECONDS = 60

Bucket = tuple[int, int, int]
"""A second, and the requests and tokens admitted in it."""


class RateWindow(msgspec.Struct, kw_only=True):
    """What was admitted for a key with limits in the last minute."""

    second: int
    """Now."""
    oldest: int
    """The second of the oldest bucket; now if there are no buckets."""
    newest: int = 0
    """The second of the newest bucket; 0 if there are no buckets."""
    requests: int = 0
    tokens: int = 0
    new_requests: int = 0
    """Admitted in this transaction; included in `requests`."""
    new_tokens: int = 0

    def count(self, tokens: int) -> None:
        """Count a request that may use up to `tokens` tokens."""
        self.requests += 1
        self.tokens += tokens
        self.new_requests += 1
        self.new_tokens += tokens

    def allowance(self, limit: int | None, used: int) -> Allowance | None:
        """Return the state of a limit; None if there is no limit."""
        if limit is None:
            return None
        return Allowance(limit, used, self.oldest + WINDOW_SECONDS + 1 - self.second)


class RateLimits(msgspec.Struct, frozen=True):
    """A key's limits per minute; None: unlimited."""

    requests: int | None
    tokens: int | None

    def __bool__(self) -> bool:
        return self.requests is not None or self.tokens is not None

    def allowances(self, window: RateWindow) -> Allowances:
        """Return the state of the limits of requests and of tokens."""
        return Allowances(
            window.allowance(self.requests, window.requests), window.allowance(self.tokens, window.tokens)
        )

    def request_excess(self, window: RateWindow) -> int:
        """Return by how many requests one more would exceed the limit; 0 or less if it may be admitted."""
        return 0 if self.requests is None else window.requests + 1 - self.requests

    def token_excess(self, window: RateWindow, tokens: int) -> int:
        """Return by how many tokens a request would exceed the limit. Raises RequestTooLarge if it alone exceeds it."""
        if self.tokens is None:
            return 0
        if tokens > self.tokens:
            raise RequestTooLarge(tokens, self.tokens)
        return window.tokens + tokens - self.tokens

    def too_many_requests(self, window: RateWindow, buckets: Iterable[Bucket], excess: int) -> RequestRateLimited:
        """Build the refusal of a request beyond the limit; `buckets` are those of the window, oldest first."""
        wait = _seconds_until_free(((second, count) for second, count, _ in buckets), window.second, excess)
        return RequestRateLimited(allowances=self.allowances(window), retry_after=wait)

    def too_many_tokens(self, window: RateWindow, buckets: Iterable[Bucket], excess: int) -> TokenRateLimited:
        """Build the refusal of a request with too many tokens."""
        wait = _seconds_until_free(((second, count) for second, _, count in buckets), window.second, excess)
        return TokenRateLimited(allowances=self.allowances(window), retry_after=wait)


def _seconds_until_free(counts: Iterable[tuple[int, int]], now: int, excess: int) -> int:
    """Return the seconds until buckets with a total of at least `excess` have left the window."""
    leaving = now
    for second, count in counts:
        excess -= count
        leaving = second + WINDOW_SECONDS + 1
        if excess <= 0:
            break
    return leaving - now
