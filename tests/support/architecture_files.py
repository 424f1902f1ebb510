"""Writes models of a few layers with random weights, for tests.support.tiny_architectures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGMLQuantizationType as Type

from tests.support.gguf_files import BYTE_VOCABULARY, Weights, random_tensor, write_gguf

_WIDTH, INNER, HEAD, EXPERT_COUNT, EXPERT = 32, 48, 16, 4, 48
SSM, STATE, GROUPS, SSM_HEADS = 64, 16, 2, 4
_CHANNELS = SSM + 2 * GROUPS * STATE
"""Of the convolution of Mamba 2."""
VOCABULARY = len(BYTE_VOCABULARY["tokenizer.ggml.tokens"])

_SHAPES: dict[str, tuple[int, ...]] = {
    "token_embd": (VOCABULARY, _WIDTH),
    "output": (VOCABULARY, _WIDTH),
    "attn_q": (_WIDTH, _WIDTH),
    "attn_k": (_WIDTH, _WIDTH),
    "attn_v": (_WIDTH, _WIDTH),
    "attn_qkv": (3 * _WIDTH, _WIDTH),
    "attn_qkv.bias": (3 * _WIDTH,),
    "attn_output": (_WIDTH, _WIDTH),
    "attn_gate": (_WIDTH, _WIDTH),
    "attn_sinks": (2,),
    "attn_q_norm": (HEAD,),
    "attn_k_norm": (HEAD,),
    "attn_q_a": (16, _WIDTH),
    "attn_q_a_norm": (16,),
    "attn_q_b": (_WIDTH, 16),
    "attn_kv_a_mqa": (24, _WIDTH),
    "attn_kv_a_norm": (16,),
    "attn_k_b": (2, 16, 8),
    "attn_v_b": (2, 16, 16),
    "ffn_gate": (INNER, _WIDTH),
    "ffn_up": (INNER, _WIDTH),
    "ffn_up.bias": (INNER,),
    "ffn_down": (_WIDTH, INNER),
    "ffn_gate_inp": (EXPERT_COUNT, _WIDTH),
    "ffn_gate_inp.bias": (EXPERT_COUNT,),
    "ffn_gate_exps": (EXPERT_COUNT, EXPERT, _WIDTH),
    "ffn_gate_exps.bias": (EXPERT_COUNT, EXPERT),
    "ffn_up_exps": (EXPERT_COUNT, EXPERT, _WIDTH),
    "ffn_up_exps.bias": (EXPERT_COUNT, EXPERT),
    "ffn_down_exps": (EXPERT_COUNT, _WIDTH, EXPERT),
    "ffn_down_exps.bias": (EXPERT_COUNT, _WIDTH),
    "ffn_gate_shexp": (EXPERT, _WIDTH),
    "ffn_up_shexp": (EXPERT, _WIDTH),
    "ffn_down_shexp": (_WIDTH, EXPERT),
    "exp_probs_b.bias": (EXPERT_COUNT,),
    "rope_freqs": (HEAD // 2,),
    "shortconv.conv.weight": (_WIDTH, 3),
    "shortconv.in_proj.weight": (3 * _WIDTH, _WIDTH),
    "shortconv.out_proj.weight": (_WIDTH, _WIDTH),
    "ssm_in": (SSM + _CHANNELS + SSM_HEADS, _WIDTH),
    "ssm_conv1d": (_CHANNELS, 4),
    "ssm_conv1d.bias": (_CHANNELS,),
    "ssm_dt.bias": (SSM_HEADS,),
    "ssm_a.": (SSM_HEADS, 1),
    "ssm_d.": (SSM_HEADS, 1),
    "ssm_norm": (GROUPS, SSM // GROUPS),
    "ssm_out": (_WIDTH, SSM),
    "ssm_b_norm": (STATE,),
    "ssm_c_norm": (STATE,),
    "ssm_alpha": (SSM_HEADS, _WIDTH),
    "ssm_beta": (SSM_HEADS, _WIDTH),
    "ssm_ba": (2 * SSM_HEADS, _WIDTH),
}
"""The shapes that most architectures have. All others are vectors as long as a token's vector."""

Layers = tuple[str, ...]


class TinyArchitecture(NamedTuple):
    """What a file of the architecture must have."""

    layers: Layers
    """The names of each layer's tensors, without `.weight`; `=4x32` behind one is a shape of its own.

    A single layer stands for two equal ones.
    """
    metadata: Mapping[str, Any] = {}
    """With keys that begin with the name of the architecture, except those that begin with a dot."""
    tensors: str = "output_norm"
    """Tensors besides those of the layers and the embeddings."""
    name: str = ""
    """llama.cpp's name, if it is shared with another one."""


def write_tiny_architecture(
    path: Path, name: str, model: TinyArchitecture, updates: Mapping[str, Weights] | None = None
) -> Path:
    """Write a file of the architecture, whose tokens are bytes. `updates` are added to its weights."""
    architecture = model.name or name
    layers = model.layers * 2 if len(model.layers) == 1 else model.layers
    metadata = {
        "context_length": 512,
        "embedding_length": _WIDTH,
        "block_count": len(layers),
        "feed_forward_length": INNER,
        "attention.head_count": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        **model.metadata,
    }
    keys = {key: key[1:] if key.startswith(".") else f"{architecture}.{key}" for key in metadata}
    tensors = [("", name) for name in ("token_embd", *model.tensors.split())]
    tensors += [(f"blk.{number}.", name) for number, layer in enumerate(layers) for name in layer.split()]
    weights = dict(_tensor(seed, prefix, entry) for seed, (prefix, entry) in enumerate(tensors))
    weights |= {name: weights[name] + update for name, update in (updates or {}).items()}
    return write_gguf(
        path,
        {name: (values, Type.F32) for name, values in weights.items()},
        metadata={**{keys[key]: value for key, value in metadata.items()}, **BYTE_VOCABULARY},
        architecture=architecture,
    )


def _tensor(seed: int, prefix: str, entry: str) -> tuple[str, Weights]:
    name, _, shape = entry.partition("=")
    full_name = name.removesuffix(".") if "." in name else f"{name}.weight"
    dimensions = tuple(map(int, shape.split("x"))) if shape else _SHAPES.get(name, (_WIDTH,))
    values = random_tensor(*dimensions, seed=seed) / np.float32(4)
    if name == "ssm_a.":  # The state decays.
        values = -np.exp(values)
    elif "norm" in name and not name.endswith(".bias"):
        values = 1 + values / 2
    return prefix + full_name, values.astype(np.float32)
