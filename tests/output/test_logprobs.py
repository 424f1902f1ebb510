import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.output.logprobs import MIN_LOGPROB, token_logprobs

LOGITS = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40)


def piece(token: int) -> bytes:
    return b"<%d>" % token


@given(LOGITS, st.data())
def test_logprobs_are_a_log_softmax_in_float64(values: list[float], data: st.DataObject) -> None:
    logits = np.array(values, dtype=np.float32)
    token = data.draw(st.integers(0, len(values) - 1))
    reported = token_logprobs(logits, token, len(values), piece)
    exact = logits.astype(np.float64)
    expected = exact - np.log(np.exp(exact - exact.max()).sum()) - exact.max()
    assert (reported.token_id, reported.token) == (token, piece(token))
    assert reported.logprob == pytest.approx(expected[token], abs=1e-9)
    assert [candidate.logprob for candidate in reported.top] == pytest.approx(sorted(expected, reverse=True), abs=1e-9)


@given(LOGITS, st.integers(0, 20))
def test_the_most_likely_tokens_come_first_and_ties_are_ordered_by_id(values: list[float], count: int) -> None:
    logits = np.array(values, dtype=np.float32)
    reported = token_logprobs(logits, 0, count, piece)
    expected = sorted(range(len(values)), key=lambda token: (-logits[token], token))[:count]
    assert [candidate.token_id for candidate in reported.top] == expected


def test_an_impossible_token_has_logprob_minus_9999() -> None:
    reported = token_logprobs(np.array([0.0, -np.inf], dtype=np.float32), 1, 2, piece)
    assert reported.logprob == MIN_LOGPROB
    assert [candidate.logprob for candidate in reported.top] == [0.0, MIN_LOGPROB]
