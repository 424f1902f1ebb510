"""Models in the tests' own process."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf

THREADS = 1
"""Several threads wait for each other in every step, which is very slow while other tests use the cores."""


class _ModelFile(NamedTuple):
    reader: gguf.GGUFReader
    values: Mapping[str, Any]


@functools.cache
def _read(source: Path) -> _ModelFile:
    """Read a file once for all models made of it: its vocabulary takes seconds."""
    reader = gguf.GGUFReader(source)
    return _ModelFile(reader, {name: field.contents() for name, field in reader.fields.items()})


def write_shallow(source: Path, path: Path, layers: int) -> Path:
    """A model with the vocabulary, the embeddings and the first layers of another one, computed so much faster."""
    read = _read(source)
    architecture = str(read.values["general.architecture"])
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in read.values.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue  # The writer has its own.
        types = read.reader.fields[name].types
        written = layers if name == f"{architecture}.block_count" else value
        writer.add_key_value(name, written, types[0], sub_type=types[-1] if types[1:] else None)
    for tensor in read.reader.tensors:
        layer = re.match(r"blk\.(\d+)\.", tensor.name)
        if layer is None or int(layer[1]) < layers:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
