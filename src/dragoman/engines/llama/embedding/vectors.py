"""From what a model computes to what a client gets: dimensions and length of a vector, probability of a score."""

import math
from typing import Protocol

import msgspec
import numpy as np

from dragoman.engines.llama.native.embedding_context import Vectors
from dragoman.engines.llama.native.model import Model, ModelError

_LEAST_PROBABILITY = 1e-12
"""Its logit, and that of the greatest probability, are finite."""


class VectorFormat(Protocol):
    """How the output of a model becomes an answer."""

    def encode(self, values: Vectors) -> bytes:
        """Return 32-bit floats, little-endian."""
        ...


class DenseVector(msgspec.Struct, frozen=True):
    """The first values of a vector, scaled to length 1."""

    dimensions: int | None = None
    """None: all."""
    normalize: bool = True

    def encode(self, values: Vectors) -> bytes:
        """Cut first, then scale. The zero vector stays as it is."""
        kept = values[: self.dimensions]
        length = np.linalg.norm(kept.astype(np.float64)) if self.normalize else 0.0
        return (kept / length if length else kept).astype("<f4").tobytes()


class Score(msgspec.Struct, frozen=True):
    """A reranker's score: the probability that the document answers the query, or its logit."""

    yes: int | None = None
    """The class of answers, if the model computes the probabilities of two. None: it computes a logit."""
    as_probability: bool = True

    def encode(self, values: Vectors) -> bytes:
        """Return one value."""
        value = float(values[0 if self.yes is None else self.yes])
        if self.yes is None and self.as_probability:
            value = _probability(value)
        elif self.yes is not None and not self.as_probability:
            value = math.log(max(value, _LEAST_PROBABILITY) / max(1 - value, _LEAST_PROBABILITY))
        return np.array([value], dtype="<f4").tobytes()


def _probability(logit: float) -> float:
    """Return the value of the logistic function, whose exponent must not overflow."""
    power = math.exp(-abs(logit))
    return (1 if logit >= 0 else power) / (1 + power)


_SOFTMAX_ARCHITECTURES = {"qwen3", "qwen3vl"}
"""Those for which llama.cpp computes the probabilities of the classes, and not their logits."""


def reranker_score(model: Model, architecture: str) -> Score:
    """Return how the output of a reranker is read. Raises ModelError for another classifier."""
    library, handle = model.library, model.handle
    classes = library.llama_model_n_cls_out(handle)
    if classes == 1:
        return Score()
    labels = [library.llama_model_cls_label(handle, number) or b"" for number in range(classes)]
    if architecture in _SOFTMAX_ARCHITECTURES and sorted(labels) == [b"no", b"yes"]:
        return Score(labels.index(b"yes"))
    names = ", ".join(label.decode(errors="replace") for label in labels)
    raise ModelError(f"{model.path} is a classifier of {classes} classes ({names}); a reranker has one, or yes and no")
