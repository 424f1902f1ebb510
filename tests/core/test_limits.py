import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.limits import check_sampling
from dragoman.core.request import SamplingParams

BOUNDED = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}


def test_the_off_values_are_in_range() -> None:
    assert check_sampling(SamplingParams()) == SamplingParams()


@pytest.mark.parametrize("parameter", BOUNDED)
@given(value=st.floats(allow_nan=True, allow_infinity=True))
def test_exactly_the_values_in_its_range_are_accepted(parameter: str, value: float) -> None:
    low, high = BOUNDED[parameter]
    sampling = msgspec.structs.replace(SamplingParams(), **{parameter: value})
    if low <= value <= high:
        assert check_sampling(sampling) is sampling
    else:
        with pytest.raises(BadRequest, match=f"^{parameter} must be between {low} and {high}, got ") as caught:
            check_sampling(sampling)
        assert caught.value.parameter == parameter


@pytest.mark.parametrize("penalty", [0.0, -0.0, -1.0, math.inf, math.nan])
def test_a_repetition_penalty_is_a_positive_finite_number(penalty: float) -> None:
    with pytest.raises(BadRequest, match=r"^repetition_penalty must be greater than 0 and finite, got "):
        check_sampling(SamplingParams(repetition_penalty=penalty))


@given(st.integers(-(2**65), 2**65))
def test_a_seed_is_an_unsigned_64_bit_integer(seed: int) -> None:
    sampling = SamplingParams(seed=seed)
    if 0 <= seed < 2**64:
        assert check_sampling(sampling) is sampling
    else:
        with pytest.raises(BadRequest, match=r"^seed must be between "):
            check_sampling(sampling)
