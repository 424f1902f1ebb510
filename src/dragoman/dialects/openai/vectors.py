"""Vectors as the engines send them: 32-bit floats, little-endian.

Imported where vectors are rendered: numpy takes a fifth of a second to load, which a worker without embeddings saves.
"""

import base64

import numpy as np

_SIGNIFICANT_DIGITS = 9
"""So many tell all 32-bit floats apart."""

_POWERS = np.array([10.0**exponent for exponent in range(309)])
"""Exact up to 10^22; the values that need a greater one are too small to matter."""


def json_numbers(values: bytes) -> list[float]:
    """Return 32-bit floats as the shortest numbers that give the same floats when they are read."""
    floats = np.frombuffer(values, dtype="<f4").astype(np.float64)
    magnitudes = np.floor(np.log10(np.maximum(np.abs(floats), np.finfo(np.float32).smallest_subnormal)))
    digits = (_SIGNIFICANT_DIGITS - 1 - magnitudes).astype(np.int64)
    scale = _POWERS[np.abs(digits)]
    rounded = np.where(digits < 0, np.round(floats / scale) * scale, np.round(floats * scale) / scale)
    numbers: list[float] = rounded.tolist()
    return numbers


def base64_text(values: bytes, float_type: str) -> str:
    """Return the floats in base64, as the type of this numpy name."""
    return base64.b64encode(np.frombuffer(values, dtype="<f4").astype(float_type).tobytes()).decode()


def cosine(first: bytes, second: bytes) -> bytes:
    """Return the cosine of two vectors of length 1."""
    product = np.dot(np.frombuffer(first, dtype="<f4"), np.frombuffer(second, dtype="<f4"))
    return np.array([product], dtype="<f4").tobytes()
