import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import BadRequest
from dragoman.core.limits import (
    MAX_ALLOWED_TOKEN_IDS,
    MAX_BAD_WORDS,
    MAX_LOGIT_BIAS_ENTRIES,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKEN_IDS,
    MAX_TOKENS,
    check_sampling,
)
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


@pytest.mark.parametrize(
    ("parameter", "most"),
    [
        ("stop", MAX_STOP_STRINGS),
        ("stop_token_ids", MAX_STOP_TOKEN_IDS),
        ("bad_words", MAX_BAD_WORDS),
        ("allowed_token_ids", MAX_ALLOWED_TOKEN_IDS),
        ("logit_bias", MAX_LOGIT_BIAS_ENTRIES),
    ],
)
def test_a_list_has_at_most_as_many_entries_as_its_limit(parameter: str, most: int) -> None:
    def sampling(count: int) -> SamplingParams:
        texts, numbers = ("x",) * count, tuple(range(count))
        values = {"stop": texts, "bad_words": texts, "logit_bias": dict.fromkeys(numbers, 1.0)}
        return msgspec.structs.replace(SamplingParams(), **{parameter: values.get(parameter, numbers)})

    accepted = sampling(most)
    assert check_sampling(accepted) is accepted
    with pytest.raises(BadRequest, match=str(most + 1)) as caught:
        check_sampling(sampling(most + 1))
    assert caught.value.parameter == parameter


@given(st.integers(-(2**65), 2**65))
def test_a_seed_is_an_unsigned_64_bit_integer(seed: int) -> None:
    sampling = SamplingParams(seed=seed)
    if 0 <= seed < 2**64:
        assert check_sampling(sampling) is sampling
    else:
        with pytest.raises(BadRequest, match=r"^seed must be between "):
            check_sampling(sampling)


@given(st.integers(1, 2**130), st.integers(0, 2**130), st.integers(-1, 2**130))
def test_counts_that_no_engine_holds_are_lowered(max_tokens: int, min_tokens: int, top_k: int) -> None:
    sent = SamplingParams(max_tokens=max_tokens, min_tokens=min(min_tokens, max_tokens), top_k=top_k)
    sampling = check_sampling(sent)
    for checked, count in zip(
        (sampling.max_tokens, sampling.min_tokens, sampling.top_k), (max_tokens, sent.min_tokens, top_k), strict=True
    ):
        assert checked == min(count, MAX_TOKENS)
