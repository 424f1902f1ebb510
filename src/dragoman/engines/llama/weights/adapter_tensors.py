"""The tensors of an adapter file: llama.cpp loads some that end the process as soon as it computes with them."""

from functools import lru_cache
from pathlib import Path

from dragoman.engines.llama.weights.gguf_files import ModelSourceError, read_headers
from dragoman.engines.llama.weights.gguf_header import FLOAT32, STRING, HeaderError, Tensor, read_header
from dragoman.engines.llama.weights.gguf_metadata import read_typed_metadata

_A, _B = ".lora_a", ".lora_b"
_TYPES = {
    "adapter.lora.alpha": FLOAT32,
    "adapter.type": STRING,
    "general.architecture": STRING,
    "general.type": STRING,
}
"""Entries whose type llama.cpp takes for granted."""

_FORMATS = {0: "F32", 1: "F16", 8: "Q8_0", 30: "BF16"}
"""What llama.cpp's converter writes, by number; matrices in other formats may not be multiplied."""

_EMBEDDINGS, _OUTPUT = "token_embd.weight", "output.weight"

_MATRIX_DIMENSIONS = 2

_Shape = tuple[int, ...]


def check_adapter_tensors(path: Path, model: Path) -> None:
    """Check what llama.cpp does not check when it loads an adapter. Raises ModelSourceError, or OSError."""
    base = _shapes(model)
    for key, kind, _ in read_typed_metadata(path):
        if _TYPES.get(key, kind) != kind:
            raise ModelSourceError(f"its {key} is of the type {kind}, and must be of the type {_TYPES[key]}")
    try:
        tensors = {tensor.name.decode(errors="replace"): tensor for tensor in read_header(path).tensors}
    except HeaderError as error:
        raise ModelSourceError("the file is damaged or not whole") from error
    for name, tensor in tensors.items():
        weight, other = name.removesuffix(_A), tensors.get(f"{name.removesuffix(_A)}{_B}")
        if tensor.type not in _FORMATS:
            raise ModelSourceError(f"its tensor {name} is not in a format of adapters: {', '.join(_FORMATS.values())}")
        if name.endswith(_A) and other is not None and weight in base:
            _check_pair(weight, tensor, other, base)


def _check_pair(weight: str, a: Tensor, b: Tensor, base: dict[str, _Shape]) -> None:
    is_embedding = weight == _EMBEDDINGS
    if is_embedding and _OUTPUT not in base:
        raise ModelSourceError(f"it changes {weight}, which is the output matrix of this model too; llama.cpp cannot")
    experts = _beyond_matrix(base[weight])
    rank = a.shape[:1] if is_embedding else a.shape[1:_MATRIX_DIMENSIONS]
    if rank != b.shape[:1] or not (_beyond_matrix(a.shape) == _beyond_matrix(b.shape) == experts):
        raise ModelSourceError(f"its matrices of {weight} have the shapes {a.shape} and {b.shape}, which do not fit")
    if max(rank, default=0) > max(base[weight]):  # Each token takes so many values in each matrix.
        raise ModelSourceError(f"its rank of {rank[0]} is larger than {weight} itself")


def _beyond_matrix(shape: _Shape) -> list[int]:
    """Return the dimensions beyond those of a matrix: the number of experts."""
    beyond = list(shape[_MATRIX_DIMENSIONS:])
    while beyond and beyond[-1] == 1:
        beyond.pop()
    return beyond


@lru_cache(maxsize=2)
def _shapes(model: Path) -> dict[str, _Shape]:
    """Return the shapes of a model's tensors, of all parts of its file. Raises ModelSourceError or OSError."""
    try:
        headers = read_headers(model)
    except HeaderError as error:
        raise ModelSourceError("the header of the model's file cannot be read") from error
    return {tensor.name.decode(errors="replace"): tensor.shape for header in headers for tensor in header.tensors}
