"""Write the same weights in another format, tensor by tensor.

The formulas are those of ggml's reference quantizers, from the gguf package.
"""

import math
import os
from collections.abc import Callable, Collection, Iterator
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, Keys, LlamaFileType
from gguf.quants import dequantize, quantize

from dragoman.engines.llama.weights.gguf_header import HEAD, MAGIC, Header, HeaderError, Tensor, read_header

FILE_TYPES = {
    GGMLQuantizationType.F32: LlamaFileType.ALL_F32,
    GGMLQuantizationType.Q8_0: LlamaFileType.MOSTLY_Q8_0,
    GGMLQuantizationType.Q5_1: LlamaFileType.MOSTLY_Q5_1,
    GGMLQuantizationType.Q5_0: LlamaFileType.MOSTLY_Q5_0,
    GGMLQuantizationType.Q4_1: LlamaFileType.MOSTLY_Q4_1,
    GGMLQuantizationType.Q4_0: LlamaFileType.MOSTLY_Q4_0,
}
"""Formats that can be written → their number in a file's metadata."""

_QUANTIZATION_VERSION = 2
"""GGML_QUANT_VERSION of ggml.h, for the formats written here."""

_ROW_WEIGHTS = 8192
"""Weights in a row for gguf.quants: it takes 16 rows at a time, which should stay in a core's cache."""

_CONVERSION_WEIGHTS = 2**20
"""Weights that are converted together; in 32 bits they take 4 MiB."""

_COPY_BYTES = 2**22
"""Bytes that are copied together."""

Bytes = npt.NDArray[np.uint8]


class _TensorCopy(NamedTuple):
    """A tensor of the source, and its form in the copy."""

    tensor: Tensor
    type: int
    """The format in the copy."""
    size: int
    """Bytes in the copy."""

    @property
    def is_requantized(self) -> bool:
        return self.type != self.tensor.type


class Requantization(NamedTuple):
    """The plan for the copy of a file."""

    source: Path
    header: Header
    target_type: GGMLQuantizationType
    tensor_copies: tuple[_TensorCopy, ...]

    @property
    def size(self) -> int:
        """Bytes of the copy's tensors, which are nearly the whole file."""
        return sum(_padded(tensor_copy.size, self.header.alignment) for tensor_copy in self.tensor_copies)


def plan(source: Path, *, source_types: Collection[int], target_type: GGMLQuantizationType) -> Requantization:
    """Plan a copy in which every tensor with a format in `source_types` gets `target_type`, a key of FILE_TYPES.

    Raises HeaderError when the file is damaged or the rows of a tensor do not fit the format, or OSError.
    """
    header = read_header(source)
    tensor_copies = []
    for tensor in header.tensors:
        if tensor.type not in source_types:
            tensor_copies.append(_TensorCopy(tensor, tensor.type, tensor.size))
            continue
        if tensor.size < _bytes_in_format(tensor, GGMLQuantizationType(tensor.type)):
            raise HeaderError(f"{source} ends before its tensor {tensor.name.decode(errors='replace')} does")
        tensor_copies.append(_TensorCopy(tensor, target_type, _bytes_in_format(tensor, target_type)))
    return Requantization(source, header, target_type, tuple(tensor_copies))


def write(planned: Requantization, target: Path, *, report: Callable[[int], None] = lambda _written: None) -> None:
    """Write the copy and flush it to the disk. `report` is called with the number of bytes of each write.

    The metadata are copied byte for byte, except the two numbers that name the file's quantization. Even a large tensor
    takes only some tens of megabytes of memory. Raises OSError.
    """
    content = np.memmap(planned.source, np.uint8, "r")
    alignment = planned.header.alignment
    with target.open("wb") as file:
        file.write(_header(planned))
        _pad(file, alignment)
        for tensor_copy in planned.tensor_copies:
            data = content[tensor_copy.tensor.start : tensor_copy.tensor.start + tensor_copy.tensor.size]
            for part in (
                _requantize(data, tensor_copy, planned.target_type)
                if tensor_copy.is_requantized
                else _slices(data, _COPY_BYTES)
            ):
                report(file.write(part.data))
            _pad(file, alignment)
        file.flush()
        os.fsync(file.fileno())


def _header(planned: Requantization) -> bytes:
    header = planned.header
    metadata = bytearray(header.metadata)
    for key, value in (
        (Keys.General.FILE_TYPE, FILE_TYPES[planned.target_type]),
        (Keys.General.QUANTIZATION_VERSION, _QUANTIZATION_VERSION),
    ):
        if (value_offset := header.uint32_offsets.get(key)) is not None:
            metadata[value_offset : value_offset + 4] = _u32(value)
    sizes = (_padded(tensor_copy.size, header.alignment) for tensor_copy in planned.tensor_copies)
    infos = [_tensor_info(*each) for each in zip(planned.tensor_copies, accumulate(sizes, initial=0), strict=False)]
    return b"".join((HEAD.pack(MAGIC, header.version, len(infos), header.entries), metadata, *infos))


def _tensor_info(tensor_copy: _TensorCopy, offset: int) -> bytes:
    name, shape = tensor_copy.tensor.name, tensor_copy.tensor.shape
    dimensions = _u32(len(shape)) + b"".join(map(_u64, shape))
    return _u64(len(name)) + name + dimensions + _u32(tensor_copy.type) + _u64(offset)


def _requantize(data: Bytes, tensor_copy: _TensorCopy, target_type: GGMLQuantizationType) -> Iterator[Bytes]:
    kind = GGMLQuantizationType(tensor_copy.tensor.type)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    data = data[: _bytes_in_format(tensor_copy.tensor, kind)]  # Without the padding.
    # A block is independent of its row in the tensor.
    row_bytes = _ROW_WEIGHTS // block * block_bytes
    shortest_bytes = max(block, GGML_QUANT_SIZES[target_type][0]) // block * block_bytes
    for slab in _slices(data, _CONVERSION_WEIGHTS // block * block_bytes):
        whole = len(slab) // row_bytes * row_bytes
        for rows in (slab[:whole].reshape(-1, row_bytes), slab[whole:].reshape(-1, shortest_bytes)):
            if rows.size:
                yield quantize(dequantize(rows, kind), target_type).ravel()


def _slices(data: Bytes, step: int) -> Iterator[Bytes]:
    return (data[start : start + step] for start in range(0, len(data), step))


def _bytes_in_format(tensor: Tensor, kind: GGMLQuantizationType) -> int:
    """Return the tensor's size in the format. Raises HeaderError when its rows do not consist of whole blocks."""
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if not tensor.shape or tensor.shape[0] % block:
        name = tensor.name.decode(errors="replace")
        raise HeaderError(f"its tensor {name} of the shape {tensor.shape} cannot have the format {kind.name}")
    return math.prod(tensor.shape) // block * block_bytes


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _pad(file: BinaryIO, alignment: int) -> None:
    position = file.tell()
    file.write(bytes(_padded(position, alignment) - position))


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _u64(value: int) -> bytes:
    return value.to_bytes(8, "little")
