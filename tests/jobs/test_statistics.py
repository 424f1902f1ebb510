from hypothesis import given
from hypothesis import strategies as st

from dragoman.jobs.reading import ModelStatistics
from dragoman.jobs.statistics import seconds_to_run, seconds_to_wait


def test_without_a_measurement_nothing_is_promised() -> None:
    assert seconds_to_wait(ModelStatistics(0, 3, {}), 10, 16) == 0
    assert seconds_to_run(ModelStatistics(0, 3, {}), 1) == 0


def test_a_job_with_a_free_slot_takes_as_long_as_the_last_ones() -> None:
    assert seconds_to_wait(ModelStatistics(4.0, 2, {}), 2, 4) == 4


def test_a_job_behind_others_waits_for_as_many_rounds_as_there_are() -> None:
    assert seconds_to_wait(ModelStatistics(4.0, 4, {}), 1, 4) == 6
    assert seconds_to_wait(ModelStatistics(4.0, 4, {}), 9, 4) == 14


def test_a_job_that_runs_has_the_rest_of_its_time_before_it() -> None:
    assert seconds_to_run(ModelStatistics(4.0, 1, {}), 1.5) == 3
    assert seconds_to_run(ModelStatistics(4.0, 1, {}), 9) == 0


@given(st.floats(0, 1000), st.integers(0, 20), st.integers(1, 1000), st.integers(0, 20))
def test_who_is_further_behind_waits_no_less(seconds: float, running: int, place: int, slots: int) -> None:
    statistics = ModelStatistics(seconds, running, {})
    assert 0 <= seconds_to_wait(statistics, place, slots) <= seconds_to_wait(statistics, place + 1, slots)
