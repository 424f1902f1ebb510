"""Which build of llama.cpp computes a model."""

import math
import platform
from collections.abc import Container
from pathlib import Path

from dragoman.engines.llama.native.libraries.binding import Library, package_folder
from dragoman.engines.llama.native.libraries.builds import IK_LLAMA_CPP, LLAMA_CPP
from dragoman.engines.llama.native.libraries.ik_llama_cpp import IkLlamaCpp, packaged_ik_llama_cpp
from dragoman.engines.llama.native.libraries.llama_cpp import LlamaCpp, packaged_llama_cpp
from dragoman.engines.llama.weights.gguf_files import ModelSourceError, read_headers
from dragoman.engines.llama.weights.gguf_header import DEFAULT_ALIGNMENT, HeaderError
from dragoman.engines.llama.weights.gguf_metadata import whole_metadata

_REQUIRED_CPU_FLAGS = {"avx2", "fma", "f16c", "bmi2"}
"""The wheel of ik_llama.cpp is compiled for these. On another processor it would crash the process."""

_COMPARED_ARCHITECTURES = {"llama"}
"""The architectures for which both builds were compared, logit by logit."""

_FAST_FORMATS = {
    2: "Q4_0",
    6: "Q5_0",
    8: "Q8_0",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    23: "IQ4_XS",
}
"""Formats of matrices, by number, that ik_llama.cpp computes faster; benchmarks/README.md has the measurement. Without
Q4_1 and Q5_1: if a row is no multiple of 128 weights, their results are wrong with 32 tokens and more."""

_COMPARED_ENCODERS = {"bert"}
"""The architectures of models for embeddings for which both builds were compared, vector by vector."""

_FAST_ENCODER_FORMATS = {0: "F32", 1: "F16"}
"""Formats of their matrices that ik_llama.cpp computes faster. Others gain little or nothing."""

_VECTOR_FORMATS = {0: "F32", 1: "F16", 30: "BF16"}
_MAX_VALUES = 2**63
_ROPE_SCALINGS = ("none", "linear", "yarn")
"""Of a file that ik_llama.cpp reads: at others, which llama.cpp refuses or computes, it ends the process."""

_MAX_ENCODER_TOKENS = 512
"""Of an input: the fork's attention takes memory for the square of it, in every head."""

_MAX_CELLS = 16384
"""ik_llama.cpp is used without flash attention. So the time of a step grows with sequences times cells, and its memory
with cells times tokens: 4 bytes for each, in every head."""


def choose_build(setting: str | None, model: Path, *, cells: int, reproducible: bool) -> str:
    """Return LLAMA_CPP, IK_LLAMA_CPP, or the path in `setting`. Without a setting, choose the fastest for the model."""
    if setting is not None:
        return setting
    faster = not reproducible and cells <= _MAX_CELLS and _runs_ik_llama_cpp() and _is_fast_and_exact(model)
    return IK_LLAMA_CPP if faster else LLAMA_CPP


def choose_embedding_build(setting: str | None, model: Path, *, longest: int, reproducible: bool) -> str:
    """Return the build that computes an encoder for embeddings, as choose_build does for other models.

    `longest`: the most tokens of an input.
    """
    if setting is not None:
        return setting
    faster = not reproducible and _runs_ik_llama_cpp() and computes_encoder_faster(model, longest)
    return IK_LLAMA_CPP if faster else LLAMA_CPP


def load_library(build: str) -> Library:
    """Load the result of `choose_build`. A path is one of llama.cpp itself. Raises LibraryError."""
    if build == IK_LLAMA_CPP:
        return IkLlamaCpp(packaged_ik_llama_cpp())
    return LlamaCpp(packaged_llama_cpp() if build == LLAMA_CPP else Path(build))


def _runs_ik_llama_cpp() -> bool:
    return package_folder("ik_llama_cpp") is not None and cpu_flags() >= _REQUIRED_CPU_FLAGS


def cpu_flags() -> set[str]:
    """Return the flags of this processor on Linux. Empty on other systems."""
    if platform.machine() != "x86_64":
        return set()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def computes_encoder_faster(model: Path, longest: int) -> bool:
    """Whether ik_llama.cpp computes inputs of this encoder faster than llama.cpp."""
    return longest <= _MAX_ENCODER_TOKENS and _consists_of(model, _COMPARED_ENCODERS, _FAST_ENCODER_FORMATS)


def _is_fast_and_exact(model: Path) -> bool:
    return _consists_of(model, _COMPARED_ARCHITECTURES, _FAST_FORMATS)


def _consists_of(model: Path, architectures: Container[str], formats: Container[int]) -> bool:
    """Whether the model has one of the architectures, and matrices of these formats only.

    Not if the file has what the fork does not survive: llama.cpp will report what is wrong with it.
    """
    try:
        metadata = whole_metadata(model)
        headers = read_headers(model)
    except (HeaderError, ModelSourceError, OSError):
        return False
    kind = metadata.get("general.architecture")
    if kind not in architectures or metadata.get(f"{kind}.rope.scaling.type", "none") not in _ROPE_SCALINGS:
        return False
    if any(header.alignment % DEFAULT_ALIGNMENT for header in headers):
        return False
    tensors = [tensor for header in headers for tensor in header.tensors]
    return all(tensor.type in (formats if len(tensor.shape) > 1 else _VECTOR_FORMATS) for tensor in tensors) and all(
        tensor.shape and 0 < math.prod(tensor.shape) < _MAX_VALUES for tensor in tensors
    )
