"""The same weights in another format: some formats on disk have faster kernels than others."""

import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

import gguf
import numpy.typing as npt
from gguf.quants import dequantize, quantize

FORMATS = {"q8_0": gguf.GGMLQuantizationType.Q8_0, "q4_0": gguf.GGMLQuantizationType.Q4_0}

_FILE_TYPES = {"q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0}

# llama.cpp's own quantizer leaves norms in 32 bits, and the embeddings in more bits than the rest.
_KEPT = {gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0}


def rewritten(source: Path, target_format: str) -> Path:
    """A copy of the model file `source` in one of FORMATS, made on first use and kept among the temporary files."""
    folder = Path(tempfile.gettempdir(), "dragoman-benchmarks")
    folder.mkdir(exist_ok=True)
    place = zlib.crc32(bytes(source.resolve()))  # Other folders may have a file of the same name.
    target = folder / f"{source.stem}-{place:08x}.{target_format}.gguf"
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        unfinished = target.with_suffix(f".{os.getpid()}")
        try:
            _rewrite(source, unfinished, target_format)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    return target


def _rewrite(source: Path, target: Path, target_format: str) -> None:
    reader = gguf.GGUFReader(source)
    architecture = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    writer = gguf.GGUFWriter(target, architecture)
    _copy_metadata(reader, writer, {gguf.Keys.General.FILE_TYPE: int(_FILE_TYPES[target_format])})
    for tensor in reader.tensors:
        data, kind = _converted(tensor, FORMATS[target_format])
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_metadata(reader: gguf.GGUFReader, writer: gguf.GGUFWriter, changed: dict[str, object]) -> None:
    written_by_the_writer = gguf.Keys.General.ARCHITECTURE
    for name, field in reader.fields.items():
        if name == written_by_the_writer or name.startswith("GGUF."):
            continue
        kind = field.types[0]
        item_kind = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, changed.get(name, field.contents()), kind, item_kind)


def _converted(
    tensor: gguf.ReaderTensor, target: gguf.GGMLQuantizationType
) -> tuple[npt.NDArray[Any], gguf.GGMLQuantizationType]:
    block_size, _ = gguf.GGML_QUANT_SIZES[target]
    row_length = int(tensor.shape[0])
    if tensor.tensor_type in _KEPT or len(tensor.shape) < 2 or row_length % block_size:
        return tensor.data, tensor.tensor_type
    return quantize(dequantize(tensor.data, tensor.tensor_type), target), target
