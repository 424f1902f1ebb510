"""A model that writes given texts, whatever the prompt: which one, its first token says.

Every byte of a text has a token of its own, and each token's embedding points at the next token. No layer adds
anything, so that the next token depends on the last one only. All tokens of prompts point at the first tokens of all
texts alike; a bias for one of these, of up to START_BIAS, selects the text.
"""

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

START_BIAS = 100.0

_WIDTH = 96
_INNER = 32
_GAIN = 60.0
"""A following token's logit is this times the square root of the width; a random other one is half of it at most."""

_BYTES = 256
_END = 2


def write_scripted_model(path: Path, texts: Sequence[str]) -> list[int]:
    """Write a GGUF file and return the first token of each text."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(_BYTES))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL] + [gguf.TokenType.BYTE] * _BYTES
    of_prompts = len(tokens)
    first, last = [], []
    for number, text in enumerate(texts):
        first.append(len(tokens))
        # llama.cpp reads a token's byte from the first six characters, and finds a byte's token by the whole text.
        tokens += [f"<0x{byte:02X}>{number}.{position}" for position, byte in enumerate(text.encode())]
        last.append(len(tokens) - 1)
    kinds += [gguf.TokenType.BYTE] * (len(tokens) - of_prompts)

    random = np.random.default_rng(0).normal(size=(len(tokens), _WIDTH)).astype(np.float32)
    embeddings = random / np.linalg.norm(random, axis=1, keepdims=True)
    embeddings[:of_prompts] = embeddings[0]
    embeddings[last] = embeddings[last[0]]
    output = np.zeros_like(embeddings)
    output[of_prompts + 1 :] = embeddings[of_prompts:-1]
    output[first] = embeddings[0]
    output[_END] = embeddings[last[0]]

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2**15)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(2)
    writer.add_rope_dimension_count(_WIDTH // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(_END)
    writer.add_unk_token_id(0)
    writer.add_tensor("token_embd.weight", embeddings)
    writer.add_tensor("output.weight", _GAIN * output)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(_WIDTH, np.float32))
    shapes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (_WIDTH, _WIDTH))
    shapes |= {"ffn_gate": (_INNER, _WIDTH), "ffn_up": (_INNER, _WIDTH), "ffn_down": (_WIDTH, _INNER)}
    for name, shape in shapes.items():
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return first
