"""A small model with a recurrent state, which the embedded engine does not serve."""

from pathlib import Path

import gguf
import numpy as np

from tests.support.gguf_files import random_tensor

WIDTH, INNER, STATE, CONVOLUTION, RANK = 32, 64, 16, 4, 2
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]


def write_tiny_mamba(path: Path) -> Path:
    """Write a Mamba of one layer with random weights."""
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(1)
    writer.add_ssm_conv_kernel(CONVOLUTION)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * len(TOKENS))
    writer.add_token_types([2, 3, 3, *[6] * 256])
    for name, shape in {
        "token_embd.weight": (len(TOKENS), WIDTH),
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
    }.items():
        writer.add_tensor(name, np.ascontiguousarray(random_tensor(*shape)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
