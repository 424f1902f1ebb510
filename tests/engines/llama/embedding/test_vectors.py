"""From the model's output to the client's."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.engines.llama.embedding.vectors import DenseVector, Score

_FLOATS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=8)


def decode(encoded: bytes) -> list[float]:
    return [float(value) for value in np.frombuffer(encoded, dtype="<f4")]


@given(_FLOATS.filter(lambda values: any(abs(value) > 1e-3 for value in values[:3])))
def test_a_vector_is_cut_before_it_is_scaled(values: list[float]) -> None:
    cut = decode(DenseVector(3).encode(np.array(values, dtype=np.float32)))
    assert len(cut) == 3
    assert math.hypot(*cut) == pytest.approx(1, rel=1e-5)
    assert np.argmax(np.abs(cut)) == np.argmax(np.abs(values[:3]))


def test_the_zero_vector_stays_zero() -> None:
    assert decode(DenseVector().encode(np.zeros(3, dtype=np.float32))) == [0, 0, 0]


def test_a_vector_can_stay_as_it_was_computed() -> None:
    assert decode(DenseVector(normalize=False).encode(np.array([3, 4], dtype=np.float32))) == [3, 4]


@given(st.floats(-1e4, 1e4, width=32))
def test_a_logit_becomes_a_probability_without_overflow(logit: float) -> None:
    [probability] = decode(Score().encode(np.array([logit], dtype=np.float32)))
    assert 0 <= probability <= 1
    assert (probability > 0.5) == (logit > 0) or abs(logit) < 1e-6
    assert decode(Score(as_probability=False).encode(np.array([logit], dtype=np.float32))) == [logit]


def test_a_model_that_computes_probabilities_is_not_activated_again() -> None:
    values = np.array([0.25, 0.75], dtype=np.float32)
    assert decode(Score(yes=1).encode(values)) == [0.75]
    assert decode(Score(yes=0).encode(values)) == [0.25]
    assert decode(Score(yes=1, as_probability=False).encode(values)) == [pytest.approx(math.log(3))]
    certain = np.array([1, 0], dtype=np.float32)
    assert math.isfinite(*decode(Score(yes=0, as_probability=False).encode(certain)))
