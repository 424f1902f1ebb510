"""Small GGUF files, written with the gguf package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type
from gguf.quants import quantize

Weights = npt.NDArray[np.float32]


def random_tensor(*shape: int, seed: int = 0) -> Weights:
    """Make normally distributed weights, like those of a model."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def write_gguf(
    path: Path,
    tensors: Mapping[str, tuple[Weights, Type]],
    *,
    metadata: Mapping[str, Any] | None = None,
    alignment: int = 32,
    architecture: str = "llama",
) -> Path:
    """Write a file with these tensors, `metadata` (text, numbers, lists) and the entries that every model has."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_custom_alignment(alignment)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in (metadata or {}).items():
        match value:
            case str():
                writer.add_string(key, value)
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case _:
                writer.add_array(key, value)
    for name, (weights, kind) in tensors.items():
        writer.add_tensor(name, quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]

BYTE_VOCABULARY: Mapping[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": _TOKENS,
    "tokenizer.ggml.scores": [0.0] * len(_TOKENS),
    "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256],
}
"""The metadata of a vocabulary of bytes and a few special tokens."""


def write_tiny_model(
    path: Path, *, seed: int = 0, kind: Type = Type.Q4_1, vocabulary: Mapping[str, Any] | None = None
) -> Path:
    """Write a llama of two layers with random weights. Its tokens are bytes and a few special ones.

    `vocabulary` replaces entries of the metadata, such as `tokenizer.ggml.tokens`.
    """
    width, inner = 64, 128
    metadata: dict[str, Any] = {
        "llama.context_length": 512,
        "llama.embedding_length": width,
        "llama.block_count": 2,
        "llama.feed_forward_length": inner,
        "llama.attention.head_count": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        **BYTE_VOCABULARY,
        **(vocabulary or {}),
    }
    matrices = {"attn_q": (width, width), "attn_k": (width, width), "attn_v": (width, width)}
    matrices |= {"attn_output": (width, width), "ffn_gate": (inner, width), "ffn_up": (inner, width)}
    shapes = {"token_embd.weight": (len(metadata["tokenizer.ggml.tokens"]), width)}
    for block in range(2):
        shapes |= {f"blk.{block}.{name}.weight": shape for name, shape in matrices.items()}
        shapes[f"blk.{block}.ffn_down.weight"] = (width, inner)
    norms = [
        "output_norm.weight",
        *(f"blk.{block}.{name}_norm.weight" for block in range(2) for name in ("attn", "ffn")),
    ]
    tensors = {name: (random_tensor(*shape, seed=seed) / np.float32(8), kind) for name, shape in shapes.items()}
    ones = np.ones(width, np.float32)
    return write_gguf(path, {**tensors, **dict.fromkeys(norms, (ones, Type.F32))}, metadata=metadata)
