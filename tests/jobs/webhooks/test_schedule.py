"""The times between the tries of one message."""

from hypothesis import given
from hypothesis import strategies as st

from dragoman.jobs.webhooks.schedule import RetrySchedule


def test_eight_attempts_take_most_of_a_day() -> None:
    shortest = [RetrySchedule().delay_after(attempt, lambda: 0.0) for attempt in range(1, 9)]
    longest = [RetrySchedule().delay_after(attempt, lambda: 1.0) for attempt in range(1, 9)]
    assert (shortest[-1], longest[-1]) == (None, None)
    assert [round(sum(pause or 0 for pause in pauses) / 3600) for pauses in (shortest, longest)] == [16, 21]


@given(st.integers(1, 2**40), st.floats(0, 1))
def test_a_delay_never_exceeds_the_maximum(attempt: int, luck: float) -> None:
    schedule = RetrySchedule(max_attempts=2**50)
    pause = schedule.delay_after(attempt, lambda: luck)
    assert pause is not None
    assert 7.5 <= pause <= schedule.max_seconds
