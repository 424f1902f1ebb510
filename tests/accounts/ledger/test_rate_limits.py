"""The window alone; test_ledger.py and test_processes.py test it in the ledger."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from dragoman.accounts.ledger.rate_limits import WINDOW_SECONDS, RateLimits, RateWindow


def _window(buckets: list[tuple[int, int, int]], now: int) -> tuple[RateWindow, list[tuple[int, int, int]]]:
    seen = [bucket for bucket in buckets if bucket[0] >= now - WINDOW_SECONDS]
    requests, tokens = sum(bucket[1] for bucket in seen), sum(bucket[2] for bucket in seen)
    oldest = min((bucket[0] for bucket in seen), default=now)
    return RateWindow(second=now, oldest=oldest, requests=requests, tokens=tokens), seen


@given(st.integers(1, 5), st.lists(st.floats(0, 30), min_size=1, max_size=80))
def test_no_60_seconds_exceed_the_limit_and_waiting_for_retry_after_succeeds(limit: int, pauses: list[float]) -> None:
    limits = RateLimits(requests=limit, tokens=None)
    buckets: list[tuple[int, int, int]] = []
    admitted: deque[float] = deque()
    now = 1000.0
    for pause in pauses:
        now += pause
        window, seen = _window(buckets, int(now))
        excess = limits.request_excess(window)
        if excess > 0:
            refusal = limits.too_many_requests(window, seen, excess)
            requests = refusal.allowances.requests
            assert requests is not None
            assert (requests.limit, requests.used) == (limit, limit)
            assert 1 <= refusal.retry_after <= WINDOW_SECONDS + 1
            earlier, _ = _window(buckets, int(now) + refusal.retry_after - 1)
            assert limits.request_excess(earlier) > 0
            now = float(int(now) + refusal.retry_after)
            window, _ = _window(buckets, int(now))
        assert limits.request_excess(window) <= 0
        buckets.append((int(now), 1, 0))
        admitted.append(now)
        while now - admitted[0] >= WINDOW_SECONDS:
            admitted.popleft()
        assert len(admitted) <= limit


def test_the_remaining_allowance_and_its_reset_time_are_reported() -> None:
    window = RateWindow(second=100, oldest=70, requests=3, tokens=500)
    requests, tokens = RateLimits(requests=5, tokens=400).allowances(window)
    assert requests is not None
    assert tokens is not None
    assert (requests.limit, requests.used, requests.remaining, requests.resets_in) == (5, 3, 2, 31)
    assert tokens.remaining == 0
    assert RateLimits(requests=5, tokens=None).allowances(window) == (requests, None)


def test_retry_after_is_the_time_until_enough_tokens_have_left() -> None:
    buckets = [(50, 1, 100), (60, 1, 300), (70, 1, 50)]
    limits = RateLimits(requests=None, tokens=500)
    window = RateWindow(second=100, oldest=50, requests=3, tokens=450)
    assert limits.token_excess(window, 50) == 0
    refusal = limits.too_many_tokens(window, buckets, limits.token_excess(window, 151))
    assert refusal.retry_after == 60 + 61 - 100
