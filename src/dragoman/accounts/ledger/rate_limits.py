"""Limits per minute: a sliding window over buckets of one second, in the transaction that admits.

A window at second s holds the buckets s - 60 to s: two requests less than 60 seconds apart never lie in different
windows, so no 60 seconds see more than the limit, whoever admits on whatever machine. The price of whole seconds is
that a request counts for 60 to 61 seconds.
"""

from collections.abc import Iterable

import msgspec

from dragoman.accounts.ledger.refusals import RequestRateLimited, RequestTooLarge, TokenRateLimited
from dragoman.core.rate_limits import Allowance

WINDOW_SECONDS = 60

Bucket = tuple[int, int, int]
"""Second, requests, tokens."""


class RateWindow(msgspec.Struct):
    """What a key was admitted in the last minute, as far as it has limits."""

    second: int
    """Now."""
    oldest: int
    """The second of the oldest bucket; now if there is none."""
    newest: int = 0
    """The second of the newest one; 0 if there is none."""
    requests: int = 0
    tokens: int = 0
    new_requests: int = 0
    """Admitted in this transaction; counted above too."""
    new_tokens: int = 0

    def count(self, tokens: int) -> None:
        """Admit a request that may use so many tokens."""
        self.requests += 1
        self.tokens += tokens
        self.new_requests += 1
        self.new_tokens += tokens

    def allowance(self, limit: int | None, used: int) -> Allowance | None:
        """What is left of a limit; None where there is none."""
        if limit is None:
            return None
        return Allowance(limit, used, self.oldest + WINDOW_SECONDS + 1 - self.second)


class RateLimits(msgspec.Struct, frozen=True):
    """A key's limits per minute; None: unlimited."""

    requests: int | None
    tokens: int | None

    def __bool__(self) -> bool:
        return self.requests is not None or self.tokens is not None

    def allowances(self, window: RateWindow) -> tuple[Allowance | None, Allowance | None]:
        """What is left of the requests and of the tokens."""
        return window.allowance(self.requests, window.requests), window.allowance(self.tokens, window.tokens)

    def request_excess(self, window: RateWindow) -> int:
        """By how many requests one more would pass the limit; not positive if it may come in."""
        return 0 if self.requests is None else window.requests + 1 - self.requests

    def token_excess(self, window: RateWindow, tokens: int) -> int:
        """By how many tokens a request would pass the limit. Raises RequestTooLarge if it would alone."""
        if self.tokens is None:
            return 0
        if tokens > self.tokens:
            raise RequestTooLarge(tokens, self.tokens)
        return window.tokens + tokens - self.tokens

    def too_many_requests(self, window: RateWindow, buckets: Iterable[Bucket], excess: int) -> RequestRateLimited:
        """The refusal of a request beyond the limit; `buckets` are the window's, oldest first."""
        requests, tokens = self.allowances(window)
        assert requests is not None
        wait = _seconds_until_free(((second, count) for second, count, _ in buckets), window.second, excess)
        return RequestRateLimited("requests per minute", requests, wait, requests, tokens)

    def too_many_tokens(self, window: RateWindow, buckets: Iterable[Bucket], excess: int) -> TokenRateLimited:
        """The refusal of a request with too many tokens."""
        requests, tokens = self.allowances(window)
        assert tokens is not None
        wait = _seconds_until_free(((second, count) for second, _, count in buckets), window.second, excess)
        return TokenRateLimited("tokens per minute", tokens, wait, requests, tokens)


def _seconds_until_free(counts: Iterable[tuple[int, int]], now: int, excess: int) -> int:
    """Until buckets with at least `excess` in them have left the window."""
    leaving = now
    for second, count in counts:
        excess -= count
        leaving = second + WINDOW_SECONDS + 1
        if excess <= 0:
            break
    return leaving - now
