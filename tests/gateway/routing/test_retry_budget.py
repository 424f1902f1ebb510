from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.gateway.routing.retry_budget import (
    MAX_BACKOFF_SECONDS,
    MIN_RETRIES_PER_SECOND,
    RETRY_SHARE,
    WINDOW_SECONDS,
    RetryBudget,
    backoff_seconds,
)
from tests.support.manual_clock import ManualClock


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=200))
@settings(max_examples=100)
def test_every_request_may_be_followed_by_a_fifth_of_a_retry_and_some_more(events: list[tuple[float, bool]]) -> None:
    clock = ManualClock()
    budget = RetryBudget(clock=clock)
    requests: list[float] = []
    retries: list[float] = []
    for seconds, is_request in events:
        clock.advance(seconds)
        if is_request:
            budget.record_request()
            requests.append(clock())
        elif budget.try_spend():
            retries.append(clock())
        # Events are counted by whole seconds, so that they may count for one second more.
        recent_requests = sum(at > clock() - WINDOW_SECONDS - 1 for at in requests)
        recent_retries = sum(at > clock() - WINDOW_SECONDS for at in retries)
        assert recent_retries <= MIN_RETRIES_PER_SECOND * WINDOW_SECONDS + RETRY_SHARE * recent_requests


def test_an_outage_spends_the_budget_and_time_restores_it() -> None:
    clock = ManualClock()
    budget = RetryBudget(clock=clock)
    for _ in range(1_000):
        budget.record_request()
    allowed = sum(budget.try_spend() for _ in range(1_000))
    assert allowed == 200 + 30
    assert budget.remaining == 0
    clock.advance(WINDOW_SECONDS + 1)
    assert budget.remaining == 30
    assert budget.try_spend()


def test_the_longest_pause_doubles_up_to_a_second_and_any_part_of_it_may_be_taken() -> None:
    longest = [backoff_seconds(attempt, lambda: 1.0) for attempt in range(1, 8)]
    assert longest == [0.05, 0.1, 0.2, 0.4, 0.8, MAX_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS]
    assert backoff_seconds(5_000, lambda: 1.0) == MAX_BACKOFF_SECONDS
    assert backoff_seconds(3, lambda: 0.0) == 0
