"""Models in the tests' own process."""

import re
import struct
from pathlib import Path

from dragoman.engines.llama.weights.gguf_header import HEAD, MAGIC, Tensor, read_header

THREADS = 1
"""Several threads wait for each other in every step, which is very slow while other tests use the cores."""


def write_shallow(source: Path, path: Path, layers: int) -> Path:
    """A model with the vocabulary, the embeddings and the first layers of another one, computed so much faster."""
    header = read_header(source)
    kept = [tensor for tensor in header.tensors if _layer(tensor) < layers]
    metadata = bytearray(header.metadata)
    [count] = (position for key, position in header.uint32_offsets.items() if key.endswith(".block_count"))
    metadata[count : count + 4] = struct.pack("<I", layers)
    with source.open("rb") as whole, path.open("wb") as file:
        file.write(HEAD.pack(MAGIC, header.version, len(kept), header.entries) + metadata)
        offset = 0
        for tensor in kept:
            dimensions = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            name = struct.pack("<Q", len(tensor.name)) + tensor.name
            file.write(name + dimensions + struct.pack("<IQ", tensor.type, offset))
            offset += tensor.size
        file.write(bytes(-file.tell() % header.alignment))
        for tensor in kept:
            whole.seek(tensor.start)
            file.write(whole.read(tensor.size))  # Up to the next tensor: with the padding behind it.
    return path


def _layer(tensor: Tensor) -> int:
    found = re.match(rb"blk\.(\d+)\.", tensor.name)
    return int(found[1]) if found else -1
