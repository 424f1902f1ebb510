from hypothesis import given
from hypothesis import strategies as st

from dragoman.jobs.service.statistics import running_eta, waiting_eta
from dragoman.jobs.storage.reader import ModelStatistics


def test_the_eta_is_zero_without_measurements() -> None:
    assert waiting_eta(ModelStatistics(0, 3, {}), 10, 16) == 0
    assert running_eta(ModelStatistics(0, 3, {}), 1) == 0


def test_a_job_with_a_free_slot_takes_as_long_as_the_last_ones() -> None:
    assert waiting_eta(ModelStatistics(4.0, 2, {}), 2, 4) == 4


def test_a_job_behind_others_waits_for_as_many_rounds_as_there_are() -> None:
    assert waiting_eta(ModelStatistics(4.0, 4, {}), 1, 4) == 6
    assert waiting_eta(ModelStatistics(4.0, 4, {}), 9, 4) == 14


def test_the_eta_of_a_running_job_is_its_remaining_time() -> None:
    assert running_eta(ModelStatistics(4.0, 1, {}), 1.5) == 3
    assert running_eta(ModelStatistics(4.0, 1, {}), 9) == 0


@given(st.floats(0, 1000), st.integers(0, 20), st.integers(1, 1000), st.integers(0, 20))
def test_the_eta_never_falls_with_the_position(seconds: float, running: int, position: int, slots: int) -> None:
    statistics = ModelStatistics(seconds, running, {})
    assert 0 <= waiting_eta(statistics, position, slots) <= waiting_eta(statistics, position + 1, slots)
