"""Models of a few layers with random weights, of the architectures that people run.

llama.cpp reports a tensor that is missing or has another shape. A tensor that only some files have may be missing
without a word, and computing then ends the process.
"""

import re

from tests.support.architecture_files import (
    EXPERT,
    EXPERT_COUNT,
    GROUPS,
    HEAD,
    INNER,
    SSM,
    SSM_HEADS,
    STATE,
    VOCABULARY,
    Layers,
    TinyArchitecture,
)

WINDOW = 16
"""Tokens of a sliding window."""

_OUTPUT = "output_norm output"
_OUTPUT_NORM_BIAS = "output_norm output_norm.bias output"
_OUTPUT_BIASES = f"{_OUTPUT_NORM_BIAS} output.bias={VOCABULARY}"
_QKV = "attn_q attn_k attn_v attn_output "
_ATTENTION = "attn_norm " + _QKV
_QK_NORM = "attn_q_norm attn_k_norm "
_WIDE_QK_NORM = "attn_q_norm=32 attn_k_norm=32 "
_FFN = "ffn_gate ffn_up ffn_down "
_BIASED = (
    "attn_norm attn_norm.bias attn_qkv attn_qkv.bias attn_output attn_output.bias ffn_norm ffn_norm.bias "
    "ffn_up ffn_up.bias ffn_down ffn_down.bias "
)
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
    "expert_count": EXPERT_COUNT,
    "expert_used_count": EXPERT_COUNT,  # A choice of some would change with the rounding.
    "expert_feed_forward_length": EXPERT,
    "expert_shared_feed_forward_length": EXPERT,
    "expert_gating_func": 2,
}
_SHARED = {**_MOE, "expert_shared_count": 1, "leading_dense_block_count": 1}
_LAYER_NORM = {"attention.layer_norm_epsilon": 1e-5}
_LOGIT_SCALE = {"logit_scale": 1.0}
_SLIDING = {"attention.sliding_window": WINDOW}
_ALTERNATING = {"attention.sliding_window_pattern": [True, False]}
_HEADS = {"attention.key_length": HEAD, "attention.value_length": HEAD}
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
    "ssm.inner_size": SSM,
    "ssm.state_size": STATE,
    "ssm.time_step_rank": SSM_HEADS,
    "ssm.group_count": GROUPS,
}
_SECOND_ATTENDS = {"attention.head_count_kv": [0, 2]}
_NEMOTRON_LAYERS = {"attention.head_count_kv": [0, 2, 0], "feed_forward_length": [0, 0, INNER]}
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
    "phi2": TinyArchitecture((_BIASED.replace("ffn_norm ffn_norm.bias ", ""),), _LAYER_NORM, _OUTPUT_BIASES),
    "stablelm": TinyArchitecture((_DENSE[0] + "attn_norm.bias ffn_norm.bias",), _LAYER_NORM, _OUTPUT_NORM_BIAS),
    "orion": TinyArchitecture((_DENSE[0] + "attn_norm.bias ffn_norm.bias",), _LAYER_NORM, _OUTPUT_NORM_BIAS),
    "olmo": TinyArchitecture((_QKV + _FFN,), _LAYER_NORM, "output"),
    "baichuan": TinyArchitecture(_DENSE, tensors=_OUTPUT),
    "xverse": TinyArchitecture(_DENSE, tensors=_OUTPUT),
    "deci": TinyArchitecture(_DENSE, tensors=_OUTPUT),
    "maincoder": TinyArchitecture((_ATTENTION + _QK_NORM + _NORM_FFN,), tensors=_OUTPUT),
    "qwen": TinyArchitecture(
        ("attn_norm attn_qkv attn_qkv.bias attn_output ffn_norm ffn_gate=24x32 ffn_up=24x32 ffn_down=32x24",),
        tensors=_OUTPUT,
    ),
    "chatglm": TinyArchitecture(("attn_norm attn_qkv attn_output ffn_norm ffn_up=96x32 ffn_down",), tensors=_OUTPUT),
    "falcon": TinyArchitecture(
        ("attn_norm attn_norm.bias attn_qkv attn_output ffn_up ffn_down",), _LAYER_NORM, _OUTPUT_NORM_BIAS
    ),
    "gptneox": TinyArchitecture((_BIASED,), _LAYER_NORM | {"use_parallel_residual": False}, _OUTPUT_NORM_BIAS),
    "gpt2": TinyArchitecture((_BIASED,), _LAYER_NORM, f"{_OUTPUT_NORM_BIAS} position_embd=512x32"),
    "starcoder": TinyArchitecture((_BIASED,), _LAYER_NORM, f"{_OUTPUT_NORM_BIAS} position_embd=512x32"),
    "pangu-embedded": TinyArchitecture((_ATTENTION + "attn_output.bias " + _NORM_FFN,), tensors=_OUTPUT),
    "nanbeige": TinyArchitecture(_DENSE, tensors=_OUTPUT),
    "bloom": TinyArchitecture((_BIASED,), _LAYER_NORM, f"{_OUTPUT_NORM_BIAS} token_embd_norm token_embd_norm.bias"),
    "codeshell": TinyArchitecture((_BIASED,), _LAYER_NORM, _OUTPUT_NORM_BIAS),
    "jais": TinyArchitecture((_BIASED + "ffn_gate ffn_gate.bias=48",), _LAYER_NORM, _OUTPUT_NORM_BIAS),
    "jais2": TinyArchitecture((_BIASED,), _LAYER_NORM, _OUTPUT_NORM_BIAS),
    "openelm": TinyArchitecture(("attn_norm attn_qkv attn_output " + _QK_NORM + _NORM_FFN,)),
    "plamo": TinyArchitecture((_ATTENTION + _FFN,), tensors=_OUTPUT),
    "refact": TinyArchitecture(_DENSE, tensors=_OUTPUT),
    "hunyuan_vl": TinyArchitecture((_ATTENTION + _QK_NORM + _NORM_FFN,), _SECTIONS),
    "paddleocr": TinyArchitecture(_DENSE, _SECTIONS),
    "bitnet": TinyArchitecture((_ATTENTION + _NORM_FFN + "attn_sub_norm ffn_sub_norm=48",)),
    "mpt": TinyArchitecture(("attn_norm attn_qkv attn_output ffn_norm ffn_up ffn_down",), _LAYER_NORM),
    "minicpm3": TinyArchitecture(
        (_MLA.replace("attn_q_b", "attn_q_b=48x16").replace("attn_k_b attn_v_b", "attn_kv_b=64x16") + _NORM_FFN,),
        {name: _LATENT[name] for name in _LATENT if name not in {"attention.head_count_kv", "attention.value_length"}},
    ),
}

EXPERTS = {
    "mixtral": TinyArchitecture(_MOE_LAYERS, _MOE, name="llama"),
    "qwen2moe": TinyArchitecture((_ATTENTION + "ffn_norm " + _QWEN_EXPERTS,), _MOE, _OUTPUT),
    "qwen3moe": TinyArchitecture((_ATTENTION + _QK_NORM + _NORM_EXPERTS,), _MOE),
    "qwen3vlmoe": TinyArchitecture((_ATTENTION + _QK_NORM + _NORM_EXPERTS,), _MOE | _SECTIONS),
    "phimoe": TinyArchitecture(
        (_BIASED.partition("ffn_up")[0] + _EXPERT_FFN,),
        _MOE | {"rope.scaling.original_context_length": 512},
        _OUTPUT_BIASES,
    ),
    "laguna": TinyArchitecture(
        (
            _ATTENTION + _QK_NORM + "attn_gate " + _NORM_FFN,
            _ATTENTION + _QK_NORM + "attn_gate exp_probs_b.bias " + _NORM_EXPERTS + _SHARED_EXPERT,
        ),
        _SHARED,
        _OUTPUT,
    ),
    "dbrx": TinyArchitecture(
        ("attn_norm attn_qkv attn_output attn_output_norm " + _EXPERT_FFN,),
        _MOE | _LAYER_NORM | {"attention.clamp_kqv": 1.0},
        _OUTPUT,
    ),
    "grok": TinyArchitecture((_ATTENTION + "attn_output_norm layer_output_norm " + _NORM_EXPERTS,), _MOE, _OUTPUT),
    "arctic": TinyArchitecture(
        (_ATTENTION + "ffn_norm_exps ffn_gate=32x32 ffn_up=32x32 ffn_down=32x32 " + _NORM_EXPERTS,), _MOE, _OUTPUT
    ),
    "hy_v3": TinyArchitecture((_ATTENTION + _QK_NORM + _NORM_EXPERTS,), _MOE, _OUTPUT),
    "bailingmoe": TinyArchitecture((_ATTENTION + _NORM_EXPERTS + _SHARED_EXPERT,), _SHARED, _OUTPUT),
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
            "attention.key_length_swa": HEAD,
            "attention.value_length_swa": HEAD,
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
    "cohere2moe": TinyArchitecture(
        (_ATTENTION + _FFN, _ATTENTION + _EXPERT_FFN),
        _MOE | _SLIDING | _LAYER_NORM | _LOGIT_SCALE | {"leading_dense_block_count": 1},
    ),
    "afmoe": TinyArchitecture(
        (
            _ATTENTION + _QK_NORM + "attn_gate " + _NORM_FFN + _AFTER,
            _ATTENTION + _QK_NORM + "attn_gate exp_probs_b.bias " + _NORM_EXPERTS + _SHARED_EXPERT + _AFTER,
        ),
        _SHARED | _SLIDING,
        _OUTPUT,
    ),
    "spark2_5": TinyArchitecture((_ATTENTION + _NORM_FFN + "attn_gate=2x32",), _SLIDING | _ALTERNATING, _OUTPUT),
    "mellum": TinyArchitecture((_ATTENTION + _QK_NORM + _NORM_EXPERTS,), _MOE | _SLIDING, _OUTPUT),
    "granite_swa": TinyArchitecture(
        (_ATTENTION + "attn_sinks " + _NORM_FFN,), _SLIDING | _ALTERNATING | _LOGIT_SCALE, _OUTPUT
    ),
    "mimo2": TinyArchitecture(_MOE_LAYERS, _MOE | _SLIDING | _ALTERNATING, _OUTPUT),
    "step35": TinyArchitecture(_MOE_LAYERS, _MOE | _SLIDING | _ALTERNATING, _OUTPUT),
    "gemma3n": TinyArchitecture(
        (
            _ATTENTION + _QK_NORM + _NORM_FFN + _AFTER + "inp_gate=256x32 proj=32x256 post_norm altup_correct_coef=4x4 "
            "altup_correct_scale altup_predict_coef=16x4 altup_router=4x32 altup_router_norm laurel_l=64x32 "
            "laurel_r=32x64 laurel_post_norm",
        ),
        _SLIDING,
        f"output_norm altup_proj=3x32x32 altup_unembd_proj=3x32x32 per_layer_token_embd={VOCABULARY}x512 "
        "per_layer_model_proj=512x32 per_layer_proj_norm=256",
    ),
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
    "cogvlm": TinyArchitecture(
        (
            "attn_norm attn_qkv attn_output vis_attn_qkv=96x32 vis_attn_output=32x32 "
            + _NORM_FFN
            + "vis_gate=48x32 vis_down=32x48 vis_up=48x32",
        ),
        tensors=_OUTPUT,
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
