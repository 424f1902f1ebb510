"""Models of a few layers with random weights, of the architectures that people run.

llama.cpp reports a tensor that is missing or has another shape. A tensor that only some files have may be missing
without a word, and computing then ends the process.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGMLQuantizationType as Type

from tests.support.gguf_files import BYTE_VOCABULARY, Weights, random_tensor, write_gguf

WINDOW = 16
"""Tokens of a sliding window."""

_WIDTH, _INNER, _HEAD, _EXPERTS, _EXPERT = 32, 48, 16, 4, 48
_SSM, _STATE, _GROUPS, _SSM_HEADS = 64, 16, 2, 4
_CHANNELS = _SSM + 2 * _GROUPS * _STATE
"""Of the convolution of Mamba 2."""
_VOCABULARY = len(BYTE_VOCABULARY["tokenizer.ggml.tokens"])

_SHAPES: dict[str, tuple[int, ...]] = {
    "token_embd": (_VOCABULARY, _WIDTH),
    "output": (_VOCABULARY, _WIDTH),
    "attn_q": (_WIDTH, _WIDTH),
    "attn_k": (_WIDTH, _WIDTH),
    "attn_v": (_WIDTH, _WIDTH),
    "attn_qkv": (3 * _WIDTH, _WIDTH),
    "attn_qkv.bias": (3 * _WIDTH,),
    "attn_output": (_WIDTH, _WIDTH),
    "attn_gate": (_WIDTH, _WIDTH),
    "attn_sinks": (2,),
    "attn_q_norm": (_HEAD,),
    "attn_k_norm": (_HEAD,),
    "attn_q_a": (16, _WIDTH),
    "attn_q_a_norm": (16,),
    "attn_q_b": (_WIDTH, 16),
    "attn_kv_a_mqa": (24, _WIDTH),
    "attn_kv_a_norm": (16,),
    "attn_k_b": (2, 16, 8),
    "attn_v_b": (2, 16, 16),
    "ffn_gate": (_INNER, _WIDTH),
    "ffn_up": (_INNER, _WIDTH),
    "ffn_up.bias": (_INNER,),
    "ffn_down": (_WIDTH, _INNER),
    "ffn_gate_inp": (_EXPERTS, _WIDTH),
    "ffn_gate_inp.bias": (_EXPERTS,),
    "ffn_gate_exps": (_EXPERTS, _EXPERT, _WIDTH),
    "ffn_gate_exps.bias": (_EXPERTS, _EXPERT),
    "ffn_up_exps": (_EXPERTS, _EXPERT, _WIDTH),
    "ffn_up_exps.bias": (_EXPERTS, _EXPERT),
    "ffn_down_exps": (_EXPERTS, _WIDTH, _EXPERT),
    "ffn_down_exps.bias": (_EXPERTS, _WIDTH),
    "ffn_gate_shexp": (_EXPERT, _WIDTH),
    "ffn_up_shexp": (_EXPERT, _WIDTH),
    "ffn_down_shexp": (_WIDTH, _EXPERT),
    "exp_probs_b.bias": (_EXPERTS,),
    "rope_freqs": (_HEAD // 2,),
    "shortconv.conv.weight": (_WIDTH, 3),
    "shortconv.in_proj.weight": (3 * _WIDTH, _WIDTH),
    "shortconv.out_proj.weight": (_WIDTH, _WIDTH),
    "ssm_in": (_SSM + _CHANNELS + _SSM_HEADS, _WIDTH),
    "ssm_conv1d": (_CHANNELS, 4),
    "ssm_conv1d.bias": (_CHANNELS,),
    "ssm_dt.bias": (_SSM_HEADS,),
    "ssm_a.": (_SSM_HEADS, 1),
    "ssm_d.": (_SSM_HEADS, 1),
    "ssm_norm": (_GROUPS, _SSM // _GROUPS),
    "ssm_out": (_WIDTH, _SSM),
    "ssm_b_norm": (_STATE,),
    "ssm_c_norm": (_STATE,),
    "ssm_alpha": (_SSM_HEADS, _WIDTH),
    "ssm_beta": (_SSM_HEADS, _WIDTH),
    "ssm_ba": (2 * _SSM_HEADS, _WIDTH),
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


_OUTPUT = "output_norm output"
_QKV = "attn_q attn_k attn_v attn_output "
_ATTENTION = "attn_norm " + _QKV
_QK_NORM = "attn_q_norm attn_k_norm "
_WIDE_QK_NORM = "attn_q_norm=32 attn_k_norm=32 "
_FFN = "ffn_gate ffn_up ffn_down "
_NORM_FFN = "ffn_norm " + _FFN
_EXPERT_FFN = "ffn_gate_inp ffn_gate_exps ffn_up_exps ffn_down_exps "
_NORM_EXPERTS = "ffn_norm " + _EXPERT_FFN
_SHARED_EXPERT = "ffn_gate_shexp ffn_up_shexp ffn_down_shexp "
_QWEN_EXPERTS = _SHARED_EXPERT + "ffn_gate_inp_shexp " + _EXPERT_FFN
_AFTER = "post_attention_norm post_ffw_norm "
_MLA = "attn_norm attn_q_a attn_q_a_norm attn_q_b attn_kv_a_mqa attn_kv_a_norm attn_k_b attn_v_b attn_output "
_MAMBA = (
    "attn_norm ssm_in=128x32 ssm_conv1d=64x4 ssm_conv1d.bias=64 ssm_x=36x64 ssm_dt=64x4 ssm_dt.bias=64 ssm_a.=64x16 "
    "ssm_d.=64 ssm_out "
)
_MAMBA_2 = "attn_norm ssm_in ssm_conv1d ssm_conv1d.bias ssm_dt.bias ssm_a. ssm_d. ssm_norm ssm_out "
_DELTA_NET = (
    "attn_norm post_attention_norm attn_qkv=128x32 attn_gate=64x32 ssm_conv1d ssm_dt.bias ssm_a.=4 ssm_norm=16 ssm_out "
)
_GATED_ATTENTION = _ATTENTION.replace("attn_q ", "attn_q=64x32 ") + _QK_NORM + "post_attention_norm "
_SHORT_CONVOLUTION = "attn_norm shortconv.conv.weight shortconv.in_proj.weight shortconv.out_proj.weight "
_DENSE: Layers = (_ATTENTION + _NORM_FFN,)
_MOE_LAYERS: Layers = (_ATTENTION + _NORM_EXPERTS,)
_DENSE_THEN_MOE: Layers = (_ATTENTION + _NORM_FFN, _ATTENTION + _NORM_EXPERTS + _SHARED_EXPERT)

_MOE = {
    "expert_count": _EXPERTS,
    "expert_used_count": _EXPERTS,  # A choice of some would change with the rounding.
    "expert_feed_forward_length": _EXPERT,
    "expert_shared_feed_forward_length": _EXPERT,
    "expert_gating_func": 2,
}
_SHARED = {**_MOE, "expert_shared_count": 1, "leading_dense_block_count": 1}
_LAYER_NORM = {"attention.layer_norm_epsilon": 1e-5}
_LOGIT_SCALE = {"logit_scale": 1.0}
_SLIDING = {"attention.sliding_window": WINDOW}
_HEADS = {"attention.key_length": _HEAD, "attention.value_length": _HEAD}
_LATENT = {
    "attention.head_count_kv": 1,
    "attention.kv_lora_rank": 16,
    "attention.q_lora_rank": 16,
    "attention.key_length": 24,
    "attention.value_length": 16,
    "attention.key_length_mla": 16,
    "attention.value_length_mla": 16,
    "rope.dimension_count": 8,
}
_SECTIONS = {"rope.dimension_sections": [2, 2, 2, 2]}
_RECURRENT = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": _SSM,
    "ssm.state_size": _STATE,
    "ssm.time_step_rank": _SSM_HEADS,
    "ssm.group_count": _GROUPS,
}
_SECOND_ATTENDS = {"attention.head_count_kv": [0, 2]}
_NEMOTRON_LAYERS = {"attention.head_count_kv": [0, 2, 0], "feed_forward_length": [0, 0, _INNER]}
_EVERY_SECOND_ATTENDS = {"full_attention_interval": 2}
_NO_ATTENTION = {"attention.head_count": 0, "feed_forward_length": 0}

DENSE = {
    "llama": TinyArchitecture(_DENSE),
    "mistral3": TinyArchitecture(_DENSE),
    "qwen2": TinyArchitecture(_DENSE),
    "qwen2vl": TinyArchitecture(_DENSE, _SECTIONS),
    "qwen3": TinyArchitecture((_ATTENTION + _QK_NORM + _NORM_FFN,)),
    "qwen3vl": TinyArchitecture((_ATTENTION + _QK_NORM + _NORM_FFN,), _SECTIONS),
    "smollm3": TinyArchitecture(_DENSE),
    "seed_oss": TinyArchitecture((_ATTENTION + "post_attention_norm " + _FFN,)),
    "granite": TinyArchitecture(_DENSE, _LOGIT_SCALE),
    "minicpm": TinyArchitecture(_DENSE),
    "internlm2": TinyArchitecture(_DENSE, tensors=_OUTPUT),
    "exaone": TinyArchitecture(_DENSE),
    "glm4": TinyArchitecture((_ATTENTION + "ffn_norm ffn_up=96x32 ffn_down " + _AFTER,)),
    "hunyuan-dense": TinyArchitecture((_ATTENTION + _QK_NORM + _NORM_FFN,)),
    "ernie4_5": TinyArchitecture(_DENSE),
    "arcee": TinyArchitecture((_ATTENTION + "ffn_norm ffn_up ffn_down",)),
    "apertus": TinyArchitecture(
        (_ATTENTION + _QK_NORM + "ffn_norm ffn_up ffn_down",),
        {".xielu.alpha_n": 1.0, ".xielu.alpha_p": 1.0, ".xielu.beta": 1.0, ".xielu.eps": 1e-7},
        _OUTPUT,
    ),
    "phi3": TinyArchitecture(
        ("attn_norm attn_qkv attn_output ffn_norm ffn_up=96x32 ffn_down",),
        {"rope.scaling.original_context_length": 512},
    ),
    "nemotron": TinyArchitecture(
        (_ATTENTION + "attn_norm.bias ffn_norm ffn_norm.bias ffn_up ffn_down",),
        _LAYER_NORM,
        "output_norm output_norm.bias output",
    ),
    "command-r": TinyArchitecture((_ATTENTION + _FFN,), _LAYER_NORM | _LOGIT_SCALE),
    "starcoder2": TinyArchitecture(
        (
            _ATTENTION
            + "attn_norm.bias attn_output.bias ffn_norm ffn_norm.bias ffn_up ffn_up.bias ffn_down ffn_down.bias",
        ),
        _LAYER_NORM,
        "output_norm output_norm.bias",
    ),
    "gemma": TinyArchitecture(_DENSE),
    "minicpm3": TinyArchitecture(
        (_MLA.replace("attn_q_b", "attn_q_b=48x16").replace("attn_k_b attn_v_b", "attn_kv_b=64x16") + _NORM_FFN,),
        {name: _LATENT[name] for name in _LATENT if name not in {"attention.head_count_kv", "attention.value_length"}},
    ),
}

EXPERTS = {
    "mixtral": TinyArchitecture(_MOE_LAYERS, _MOE, name="llama"),
    "qwen2moe": TinyArchitecture((_ATTENTION + "ffn_norm " + _QWEN_EXPERTS,), _MOE, _OUTPUT),
    "qwen3moe": TinyArchitecture((_ATTENTION + _QK_NORM + _NORM_EXPERTS,), _MOE),
    "granitemoe": TinyArchitecture((_ATTENTION + _NORM_EXPERTS + _SHARED_EXPERT,), _MOE | _LOGIT_SCALE),
    "olmoe": TinyArchitecture((_ATTENTION + _WIDE_QK_NORM + _NORM_EXPERTS,), _MOE, _OUTPUT),
    "hunyuan-moe": TinyArchitecture((_ATTENTION + _QK_NORM + _NORM_EXPERTS + _SHARED_EXPERT,), _MOE),
    "minimax-m2": TinyArchitecture((_ATTENTION + _WIDE_QK_NORM + "exp_probs_b.bias " + _NORM_EXPERTS,), _MOE, _OUTPUT),
    "glm4moe": TinyArchitecture(
        (
            _ATTENTION + "post_attention_norm " + _FFN,
            _ATTENTION + "post_attention_norm exp_probs_b.bias " + _SHARED_EXPERT + _EXPERT_FFN,
        ),
        _SHARED,
    ),
    "ernie4_5-moe": TinyArchitecture(_DENSE_THEN_MOE, _SHARED | {"interleave_moe_layer_step": 1}),
    "bailingmoe2": TinyArchitecture(
        (
            "attn_norm attn_qkv attn_output " + _QK_NORM + _NORM_FFN,
            "attn_norm attn_qkv attn_output " + _QK_NORM + _NORM_EXPERTS + _SHARED_EXPERT,
        ),
        _SHARED,
        _OUTPUT,
    ),
    "dots1": TinyArchitecture(tuple(layer + _QK_NORM for layer in _DENSE_THEN_MOE), _SHARED, _OUTPUT),
    "deepseek": TinyArchitecture(_DENSE_THEN_MOE, _SHARED),
    "smallthinker": TinyArchitecture(_MOE_LAYERS, _MOE),
    "llama4": TinyArchitecture(_DENSE_THEN_MOE * 2, _MOE | {"interleave_moe_layer_step": 2}),
    "deepseek2": TinyArchitecture((_MLA + _NORM_FFN, _MLA + _NORM_EXPERTS + _SHARED_EXPERT), _SHARED | _LATENT),
    "mistral4": TinyArchitecture((_MLA + _NORM_FFN, _MLA + _NORM_EXPERTS + _SHARED_EXPERT), _SHARED | _LATENT),
}

SLIDING_WINDOWS = {
    "gemma2": TinyArchitecture((_ATTENTION + _NORM_FFN + _AFTER,), _SLIDING),
    "gemma3": TinyArchitecture((_ATTENTION + _QK_NORM + _NORM_FFN + _AFTER,), _SLIDING),
    "gemma4": TinyArchitecture(
        (_ATTENTION.replace("attn_v ", "") + _QK_NORM + _NORM_FFN + _AFTER,),
        {
            **_SLIDING,
            **_HEADS,
            "attention.sliding_window_pattern": [1, 0],
            "attention.key_length_swa": _HEAD,
            "attention.value_length_swa": _HEAD,
            "attention.shared_kv_layers": 0,
            "embedding_length_per_layer_input": 0,
            "rope.freq_base_swa": 10000.0,
        },
        "output_norm rope_freqs",
    ),
    "gpt-oss": TinyArchitecture(
        (
            _ATTENTION + "attn_output.bias attn_sinks post_attention_norm ffn_gate_inp ffn_gate_inp.bias ffn_gate_exps "
            "ffn_gate_exps.bias ffn_up_exps ffn_up_exps.bias ffn_down_exps ffn_down_exps.bias",
        ),
        _MOE | _SLIDING | _HEADS,
        _OUTPUT,
    ),
    "cohere2": TinyArchitecture((_ATTENTION + _FFN,), _SLIDING | _LAYER_NORM | _LOGIT_SCALE),
    "olmo2": TinyArchitecture((_QKV + _WIDE_QK_NORM + _FFN + _AFTER,), _SLIDING, _OUTPUT),
    "exaone4": TinyArchitecture((_QKV + _QK_NORM + _FFN + _AFTER,), _SLIDING),
    "exaone-moe": TinyArchitecture(tuple(layer + _QK_NORM for layer in _DENSE_THEN_MOE), _SHARED | _SLIDING, _OUTPUT),
}

RECURRENT = {
    "mamba": TinyArchitecture((_MAMBA,), _RECURRENT | _NO_ATTENTION),
    "mamba2": TinyArchitecture((_MAMBA_2,), _RECURRENT | _NO_ATTENTION),
}

HYBRID = {
    "jamba": TinyArchitecture(
        (_MAMBA + "ssm_dt_norm=4 ssm_b_norm ssm_c_norm " + _NORM_FFN, _ATTENTION + _NORM_FFN),
        _RECURRENT | _SECOND_ATTENDS,
    ),
    "falcon-h1": TinyArchitecture((_QKV + _MAMBA_2.replace("ssm_norm ", "") + "ffn_norm. " + _FFN,), _RECURRENT),
    "granitehybrid": TinyArchitecture(
        (_MAMBA_2 + _NORM_FFN, _ATTENTION + _NORM_FFN), _RECURRENT | _SECOND_ATTENDS | _LOGIT_SCALE
    ),
    "granitehybrid with experts": TinyArchitecture(
        (_MAMBA_2 + _NORM_EXPERTS + _SHARED_EXPERT, _ATTENTION + _NORM_EXPERTS + _SHARED_EXPERT),
        _RECURRENT | _SECOND_ATTENDS | _LOGIT_SCALE | _MOE,
        name="granitehybrid",
    ),
    "nemotron_h": TinyArchitecture(
        (_MAMBA_2, _ATTENTION, "attn_norm ffn_up ffn_down"),
        _RECURRENT | _LAYER_NORM | _NEMOTRON_LAYERS,
    ),
    "nemotron_h_moe": TinyArchitecture(
        (
            _MAMBA_2,
            _ATTENTION,
            "attn_norm ffn_gate_inp exp_probs_b.bias ffn_up_exps ffn_down_exps ffn_up_shexp ffn_down_shexp",
        ),
        _RECURRENT | _LAYER_NORM | _MOE | _NEMOTRON_LAYERS | {"expert_shared_count": 1},
    ),
    "lfm2": TinyArchitecture(
        (_SHORT_CONVOLUTION + _NORM_FFN, _ATTENTION + _QK_NORM + _NORM_FFN),
        _SECOND_ATTENDS | {"shortconv.l_cache": 3},
        "token_embd_norm",
    ),
    "lfm2moe": TinyArchitecture(
        (_SHORT_CONVOLUTION + _NORM_FFN, _ATTENTION + _QK_NORM + "exp_probs_b.bias " + _NORM_EXPERTS),
        _SECOND_ATTENDS | _SHARED | {"shortconv.l_cache": 3},
        "token_embd_norm",
    ),
    "qwen3next": TinyArchitecture(
        (_DELTA_NET + "ssm_ba " + _QWEN_EXPERTS, _GATED_ATTENTION + _QWEN_EXPERTS),
        _RECURRENT | _MOE | _EVERY_SECOND_ATTENDS,
    ),
    "qwen35": TinyArchitecture(
        (_DELTA_NET + "ssm_alpha ssm_beta " + _FFN, _GATED_ATTENTION + _FFN),
        _RECURRENT | _EVERY_SECOND_ATTENDS | _SECTIONS,
    ),
    "qwen35moe": TinyArchitecture(
        (_DELTA_NET + "ssm_alpha ssm_beta " + _QWEN_EXPERTS, _GATED_ATTENTION + _QWEN_EXPERTS),
        _RECURRENT | _MOE | _EVERY_SECOND_ATTENDS | _SECTIONS,
    ),
}

_CODER = "attn_norm attn_q=32x32 attn_k=32x32 attn_v=32x32 attn_o=32x32 ffn_norm ffn_down=32x48 ffn_up=48x32"
_CROSS_ATTENTION = "cross_attn_norm cross_attn_q=32x32 cross_attn_k=32x32 cross_attn_v=32x32 cross_attn_o=32x32"

REFUSED = {
    "dream": TinyArchitecture(_DENSE),
    "llada": TinyArchitecture(_DENSE),
    "t5": TinyArchitecture(
        ("",),
        _LAYER_NORM | {"attention.relative_buckets_count": 8, "block_count": 1},
        "enc.output_norm.weight dec.output_norm.weight "
        + re.sub(r"(\w+)(\S*)", r"enc.blk.0.\1.weight\2 ", _CODER)
        + re.sub(r"(\w+)(\S*)", r"dec.blk.0.\1.weight\2 ", f"{_CODER} {_CROSS_ATTENTION}"),
    ),
    "plamo2": TinyArchitecture(
        tuple(
            layer + "ffn_norm ffn_up=96x32 ffn_down post_attention_norm. post_ffw_norm."
            for layer in (
                "attn_norm ssm_in=128x32 ssm_conv1d=64x4 ssm_x=96x64 ssm_dt=4x64 ssm_dt.bias ssm_a.=4 ssm_d.=4 ssm_out "
                "ssm_dt_norm.=64 ssm_b_norm.=16 ssm_c_norm.=16 ",
                "attn_norm attn_qkv attn_q_norm=2x16 attn_k_norm=2x16 attn_output ",
            )
        ),
        _RECURRENT | _SECOND_ATTENDS | {"ssm.group_count": 0},
    ),
}

SERVED = DENSE | EXPERTS | SLIDING_WINDOWS | RECURRENT | HYBRID


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
        "feed_forward_length": _INNER,
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
