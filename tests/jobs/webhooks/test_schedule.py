"""The times between the tries of one message."""

from hypothesis import given
from hypothesis import strategies as st

from dragoman.jobs.webhooks.schedule import Schedule


def test_eight_tries_take_most_of_a_day() -> None:
    shortest = [Schedule().pause(attempt, lambda: 0.0) for attempt in range(1, 9)]
    longest = [Schedule().pause(attempt, lambda: 1.0) for attempt in range(1, 9)]
    assert (shortest[-1], longest[-1]) == (None, None)
    assert [round(sum(pause or 0 for pause in pauses) / 3600) for pauses in (shortest, longest)] == [16, 21]


@given(st.integers(1, 2**40), st.floats(0, 1))
def test_a_pause_is_never_longer_than_the_longest(attempt: int, luck: float) -> None:
    schedule = Schedule(attempts=2**50)
    pause = schedule.pause(attempt, lambda: luck)
    assert pause is not None
    assert 7.5 <= pause <= schedule.longest_seconds
