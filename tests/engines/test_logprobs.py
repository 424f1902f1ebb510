import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.engines.logprobs import IMPOSSIBLE, report

LOGITS = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40)


def piece(token: int) -> bytes:
    return b"<%d>" % token


@given(LOGITS, st.data())
def test_they_are_a_log_softmax_in_float64(values: list[float], data: st.DataObject) -> None:
    logits = np.array(values, dtype=np.float32)
    token = data.draw(st.integers(0, len(values) - 1))
    told = report(logits, token, len(values), piece)
    exact = logits.astype(np.float64)
    expected = exact - np.log(np.exp(exact - exact.max()).sum()) - exact.max()
    assert (told.token_id, told.token) == (token, piece(token))
    assert told.logprob == pytest.approx(expected[token], abs=1e-9)
    assert [likelihood.logprob for likelihood in told.top] == pytest.approx(sorted(expected, reverse=True), abs=1e-9)


@given(LOGITS, st.integers(0, 20))
def test_the_likeliest_come_first_and_equals_by_their_ids(values: list[float], count: int) -> None:
    logits = np.array(values, dtype=np.float32)
    told = report(logits, 0, count, piece)
    expected = sorted(range(len(values)), key=lambda token: (-logits[token], token))[:count]
    assert [likelihood.token_id for likelihood in told.top] == expected


def test_what_cannot_come_is_minus_9999() -> None:
    told = report(np.array([0.0, -np.inf], dtype=np.float32), 1, 2, piece)
    assert told.logprob == IMPOSSIBLE
    assert [likelihood.logprob for likelihood in told.top] == [0.0, IMPOSSIBLE]
