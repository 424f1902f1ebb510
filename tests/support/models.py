"""Models in the tests' own process."""

import re
from pathlib import Path

import gguf

THREADS = 1
"""Several threads wait for each other in every step, which is very slow while other tests use the cores."""


def write_shallow(source: Path, path: Path, layers: int) -> Path:
    """A model with the vocabulary, the embeddings and the first layers of another one, computed so much faster."""
    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(path, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue  # The writer has its own.
        value = layers if name == f"{architecture}.block_count" else field.contents()
        writer.add_key_value(name, value, field.types[0], sub_type=field.types[-1] if field.types[1:] else None)
    for tensor in reader.tensors:
        layer = re.match(r"blk\.(\d+)\.", tensor.name)
        if layer is None or int(layer[1]) < layers:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
