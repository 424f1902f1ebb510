"""What a KV cell of a model takes: memory, and time beside the model's weights."""

import math
from pathlib import Path
from typing import NamedTuple

from dragoman.engines.llama.weights.gguf_files import ModelSourceError, read_headers
from dragoman.engines.llama.weights.gguf_header import HeaderError
from dragoman.engines.llama.weights.gguf_metadata import architecture

_FLOAT16_BYTES = 2

_WEIGHT_PER_PRODUCT = 0.75
"""The time in which a step passes over one weight, in that of one product of attention without flash attention.

The bundled model: 6.5 ms for 134 million weights, besides what each token takes, and 2.2 µs for the 34,560 products of
a token with one cell.
"""


class CellSize(NamedTuple):
    """What one KV cell of all layers takes."""

    bytes: int
    step_cells: int
    """The number of cells that a token attends to in the time in which a step passes over all weights."""


def read_cell_size(path: Path) -> CellSize | None:
    """Read the size from a model's file, or all its parts. None if its layers differ, or the file does not say."""
    try:
        prefix = architecture(path)
        headers = read_headers(path)
    except (HeaderError, ModelSourceError, OSError):
        return None
    numbers = {key.removeprefix(f"{prefix}."): headers[0].uint32(key) or 0 for key in headers[0].uint32_offsets}
    layers, heads, width = (numbers.get(key, 0) for key in ("block_count", "attention.head_count", "embedding_length"))
    if not (layers and heads and width):
        return None
    key_length = numbers.get("attention.key_length", width // heads)
    value_length = numbers.get("attention.value_length", width // heads)
    kv_heads = numbers.get("attention.head_count_kv", heads)
    weights = sum(math.prod(tensor.shape) for header in headers for tensor in header.tensors)
    products = layers * heads * (key_length + value_length)
    return CellSize(
        bytes=layers * kv_heads * (key_length + value_length) * _FLOAT16_BYTES,
        step_cells=int(_WEIGHT_PER_PRODUCT * weights / products),
    )
