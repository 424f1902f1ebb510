"""Rewrite weights in another format: some formats have faster kernels than others."""

import os
import tempfile
import zlib
from pathlib import Path

from gguf.constants import GGMLQuantizationType

from dragoman.engines.llama.weights.requantization import plan, write

FORMATS = {
    "f32": GGMLQuantizationType.F32,
    "q8_0": GGMLQuantizationType.Q8_0,
    "q5_1": GGMLQuantizationType.Q5_1,
    "q5_0": GGMLQuantizationType.Q5_0,
    "q4_1": GGMLQuantizationType.Q4_1,
    "q4_0": GGMLQuantizationType.Q4_0,
}

# llama.cpp's own quantizer leaves norms in 32 bits, and the embeddings in more bits than the rest.
_UNCHANGED_TYPES = {GGMLQuantizationType.F32, GGMLQuantizationType.Q8_0}


def rewritten(source: Path, target_format: str) -> Path:
    """Return a copy of the model file `source` in one of FORMATS. It is made on first use and kept for later runs."""
    folder = Path(tempfile.gettempdir(), "dragoman-benchmarks")
    folder.mkdir(exist_ok=True)
    path_checksum = zlib.crc32(bytes(source.resolve()))  # Other folders may have a file of the same name.
    target = folder / f"{source.stem}-{path_checksum:08x}.{target_format}.gguf"
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        unfinished = target.with_suffix(f".{os.getpid()}")
        target_type = FORMATS[target_format]
        try:
            write(
                plan(
                    source,
                    source_types=set(GGMLQuantizationType) - _UNCHANGED_TYPES - {target_type},
                    target_type=target_type,
                ),
                unfinished,
            )
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    return target
