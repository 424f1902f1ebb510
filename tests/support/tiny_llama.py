"""A small llama model of random weights, and LoRA adapters for it, as GGUF files."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]


class ModelShape(NamedTuple):
    """The dimensions of a model."""

    width: int
    heads: int
    inner: int
    layers: int
    vocabulary: int


TINY = ModelShape(width=32, heads=2, inner=48, layers=2, vocabulary=300)
VOCABULARY = TINY.vocabulary
WIDTH = TINY.width

_BYTES = 256


class LowRank:
    """The update of one matrix by an adapter: alpha / rank * B A, times its scale."""

    def __init__(self, b: Matrix, a: Matrix) -> None:
        self.b = b
        self.a = a

    def product(self, alpha: float, scale: float) -> Matrix:
        """Compute the update."""
        rank = self.a.shape[0]
        product: Matrix = (scale * alpha / rank * self.b @ self.a).astype(np.float32)
        return product


def random_weights(seed: int, shape: ModelShape = TINY, spread: float = 0.3) -> dict[str, Matrix]:
    """Make all matrices of a model."""
    source = np.random.default_rng(seed)
    matrices = dict.fromkeys(("token_embd.weight", "output.weight"), (shape.vocabulary, shape.width))
    for layer in range(shape.layers):
        matrices |= {f"blk.{layer}.{name}": rows_and_columns for name, rows_and_columns in _layer_shapes(shape).items()}
    return {name: source.normal(0, spread, size).astype(np.float32) for name, size in matrices.items()}


def _layer_shapes(shape: ModelShape) -> dict[str, tuple[int, int]]:
    width, inner = shape.width, shape.inner
    attention = ("attn_q", "attn_k", "attn_v", "attn_output")
    return {f"{name}.weight": (width, width) for name in attention} | {
        "ffn_gate.weight": (inner, width),
        "ffn_up.weight": (inner, width),
        "ffn_down.weight": (width, inner),
    }


def random_lora_updates(seed: int, rank: int = 4) -> dict[str, LowRank]:
    """Make updates of every matrix of the layers and of the output matrix."""
    source = np.random.default_rng(seed)
    weights = {name: weight for name, weight in random_weights(0).items() if name != "token_embd.weight"}
    return {
        name: LowRank(
            source.normal(0, 0.3, (weight.shape[0], rank)).astype(np.float32),
            source.normal(0, 0.3, (rank, weight.shape[1])).astype(np.float32),
        )
        for name, weight in weights.items()
    }


def merged(
    weights: Mapping[str, Matrix], changes: Mapping[str, LowRank], alpha: float, scale: float
) -> dict[str, Matrix]:
    """Merge an adapter into the weights."""
    return {
        name: weight + changes[name].product(alpha, scale) if name in changes else weight
        for name, weight in weights.items()
    }


def write_model(
    path: Path, weights: Mapping[str, Matrix], shape: ModelShape = TINY, *, context_length: int = 512
) -> Path:
    """Write a model file in 32-bit floats. Its tokens are bytes."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(context_length)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_vocabulary(writer, shape.vocabulary)
    for name, weight in weights.items():
        writer.add_tensor(name, weight)
    ones = np.ones(shape.width, dtype=np.float32)
    writer.add_tensor("output_norm.weight", ones)
    for layer in range(shape.layers):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", ones)
    _write(writer)
    return path


def write_adapter(
    path: Path,
    changes: Mapping[str, LowRank],
    *,
    alpha: float = 8.0,
    architecture: str = "llama",
    kind: str = "adapter",
    base: str | None = None,
) -> Path:
    """Write an adapter file. `base` is the repository of its model in the metadata."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(kind)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    if base is not None:
        writer.add_base_model_count(1)
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{base}")
    for name, change in changes.items():
        writer.add_tensor(f"{name}.lora_a", change.a)
        writer.add_tensor(f"{name}.lora_b", change.b)
    _write(writer)
    return path


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(_BYTES))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL] + [gguf.TokenType.BYTE] * _BYTES
    remaining = size - len(tokens)
    tokens += ["▁".encode(), *(f"word{number}".encode() for number in range(1, remaining))]  # the first one is a space
    kinds += [gguf.TokenType.NORMAL] * remaining
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * size)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def _write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
