"""A small model with a recurrent state, which the embedded engine does not serve."""

from pathlib import Path

from gguf import GGMLQuantizationType as Type

from tests.support.gguf_files import BYTE_VOCABULARY, random_tensor, write_gguf

WIDTH, INNER, STATE, CONVOLUTION, RANK = 32, 64, 16, 4, 2


def write_tiny_mamba(path: Path) -> Path:
    """Write a Mamba of one layer with random weights."""
    metadata = {
        "mamba.context_length": 512,
        "mamba.embedding_length": WIDTH,
        "mamba.feed_forward_length": 0,
        "mamba.attention.head_count": 0,
        "mamba.block_count": 1,
        "mamba.ssm.conv_kernel": CONVOLUTION,
        "mamba.ssm.inner_size": INNER,
        "mamba.ssm.state_size": STATE,
        "mamba.ssm.time_step_rank": RANK,
        "mamba.attention.layer_norm_rms_epsilon": 1e-5,
        **BYTE_VOCABULARY,
    }
    shapes = {
        "token_embd.weight": (len(BYTE_VOCABULARY["tokenizer.ggml.tokens"]), WIDTH),
        "output_norm.weight": (WIDTH,),
        "blk.0.attn_norm.weight": (WIDTH,),
        "blk.0.ssm_in.weight": (2 * INNER, WIDTH),
        "blk.0.ssm_conv1d.weight": (INNER, CONVOLUTION),
        "blk.0.ssm_conv1d.bias": (INNER,),
        "blk.0.ssm_x.weight": (RANK + 2 * STATE, INNER),
        "blk.0.ssm_dt.weight": (INNER, RANK),
        "blk.0.ssm_dt.bias": (INNER,),
        "blk.0.ssm_a": (INNER, STATE),
        "blk.0.ssm_d": (INNER,),
        "blk.0.ssm_out.weight": (WIDTH, INNER),
    }
    tensors = {name: (random_tensor(*shape), Type.F32) for name, shape in shapes.items()}
    return write_gguf(path, tensors, metadata=metadata, architecture="mamba")
