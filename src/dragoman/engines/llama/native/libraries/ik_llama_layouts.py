"""The layouts of ik_llama.cpp: its structs, functions and defaults.

They are those of the llama.h inside the pinned ik-llama-cpp-python wheel.
"""

from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint32, c_void_p
from typing import ClassVar

from dragoman.engines.llama.native.libraries.binding import CFunction, Defaults, Functions, LogCallback

_KV_TYPE_F16 = 1


class IkLlamaModelParams(Structure):
    """struct llama_model_params."""

    _fields_: ClassVar = [
        ("devices", c_char_p),
        ("n_gpu_layers", c_int32),
        ("mla", c_int32),
        ("split_mode", c_int),
        ("main_gpu", c_int32),
        ("max_gpu", c_int32),
        ("ncmoe", c_int32),
        ("type_k", c_int),
        ("type_v", c_int),
        ("max_ctx_size", c_uint32),
        ("n_seq_max", c_int32),
        ("n_ubatch", c_int32),
        ("amb", c_int32),
        ("fit_margin", c_int32),
        ("fit", c_bool),
        ("worst_graph_tokens", c_int32),
        ("type_k_first", c_int),
        ("type_k_last", c_int),
        ("type_v_first", c_int),
        ("type_v_last", c_int),
        ("n_k_first", c_int32),
        ("n_k_last", c_int32),
        ("n_v_first", c_int32),
        ("n_v_last", c_int32),
        ("tensor_split", c_void_p),
        ("rpc_servers", c_char_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("use_mmap", c_bool),
        ("use_mlock", c_bool),
        ("check_tensors", c_bool),
        ("repack_tensors", c_bool),
        ("use_thp", c_bool),
        ("validate_quants", c_bool),
        ("merge_qkv", c_bool),
        ("merge_up_gate_exps", c_bool),
        ("mtp", c_bool),
        ("dry_run", c_bool),
        ("flash_attn", c_bool),
    ]


class IkLlamaContextParams(Structure):
    """struct llama_context_params."""

    _fields_: ClassVar = [
        ("seed", c_uint32),
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_threads", c_uint32),
        ("n_threads_batch", c_uint32),
        ("max_extra_alloc", c_int32),
        ("worst_case_tokens", c_int32),
        ("rope_scaling_type", c_int),
        ("pooling_type", c_int),
        ("attention_type", c_int),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int),
        ("type_v", c_int),
        ("type_reduce", c_int),
        ("type_k_first", c_int),
        ("type_k_last", c_int),
        ("type_v_first", c_int),
        ("type_v_last", c_int),
        ("n_k_first", c_int32),
        ("n_k_last", c_int32),
        ("n_v_first", c_int32),
        ("n_v_last", c_int32),
        ("logits_all", c_bool),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("flash_attn", c_bool),
        ("mla_attn", c_int),
        ("attn_max_batch", c_int),
        ("fused_moe_up_gate", c_bool),
        ("grouped_expert_routing", c_bool),
        ("fused_up_gate", c_bool),
        ("fused_mmad", c_bool),
        ("rope_cache", c_bool),
        ("graph_reuse", c_bool),
        ("min_experts", c_int),
        ("thresh_experts", c_float),
        ("only_active_experts", c_bool),
        ("k_cache_hadamard", c_bool),
        ("v_cache_hadamard", c_bool),
        ("split_mode_graph_scheduling", c_bool),
        ("scheduler_async", c_bool),
        ("mtp", c_bool),
        ("mtp_op_type", c_int),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("offload_policy", c_void_p),
        ("cuda_params", c_void_p),
    ]


class IkLlamaBatch(Structure):
    """struct llama_batch. The last three fields are ignored if the arrays are set."""

    _fields_: ClassVar = [
        ("n_tokens", c_int32),
        ("token", c_void_p),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", c_void_p),
        ("all_pos_0", c_int32),
        ("all_pos_1", c_int32),
        ("all_seq_id", c_int32),
    ]


class IkLlamaCacheView(Structure):
    """struct llama_kv_cache_view."""

    _fields_: ClassVar = [
        ("n_cells", c_int32),
        ("n_seq_max", c_int32),
        ("token_count", c_int32),
        ("used_cells", c_int32),
        ("max_contiguous", c_int32),
        ("max_contiguous_idx", c_int32),
        ("cells", c_void_p),
        ("cells_sequences", c_void_p),
    ]


_STATE_ARGUMENTS = [c_void_p, c_void_p, c_size_t, c_int32, c_uint32]
"""Context, buffer, its size, sequence, flags."""

FUNCTIONS: Functions = {
    "llama_model_default_params": CFunction(IkLlamaModelParams, []),
    "llama_context_default_params": CFunction(IkLlamaContextParams, []),
    "llama_log_set": CFunction(None, [LogCallback, c_void_p]),
    "llama_backend_init": CFunction(None, []),
    "llama_model_load_from_file": CFunction(c_void_p, [c_char_p, IkLlamaModelParams]),
    "llama_model_free": CFunction(None, [c_void_p], "llama_free_model"),
    "llama_model_n_ctx_train": CFunction(c_int32, [c_void_p], "llama_n_ctx_train"),
    "llama_model_chat_template": CFunction(c_char_p, [c_void_p, c_char_p]),
    "llama_model_has_encoder": CFunction(c_bool, [c_void_p]),
    "llama_model_is_recurrent": CFunction(c_bool, [c_void_p]),
    "llama_model_is_hybrid": CFunction(c_bool, [c_void_p]),
    "llama_init_from_model": CFunction(c_void_p, [c_void_p, IkLlamaContextParams]),
    "llama_free": CFunction(None, [c_void_p]),
    "llama_model_n_embd_out": CFunction(c_int32, [c_void_p], "llama_model_n_embd"),
    "llama_get_embeddings_seq": CFunction(POINTER(c_float), [c_void_p, c_int32]),
    "llama_set_n_threads": CFunction(None, [c_void_p, c_uint32, c_uint32]),
    "llama_n_ctx": CFunction(c_uint32, [c_void_p]),
    "llama_memory_seq_rm": CFunction(c_bool, [c_void_p, c_int32, c_int32, c_int32], "llama_kv_cache_seq_rm"),
    "llama_memory_seq_cp": CFunction(None, [c_void_p, c_int32, c_int32, c_int32, c_int32], "llama_kv_cache_seq_cp"),
    "view_cells": CFunction(None, [c_void_p, POINTER(IkLlamaCacheView)], "llama_kv_cache_view_update"),
    "queue_compaction": CFunction(None, [c_void_p], "llama_kv_cache_defrag"),
    "run_queued": CFunction(c_int32, [c_void_p], "llama_kv_cache_update"),
    "decode_behind_last": CFunction(c_int32, [c_void_p, IkLlamaBatch], "llama_decode"),
    "llama_get_logits": CFunction(POINTER(c_float), [c_void_p]),
    "llama_vocab_n_tokens": CFunction(c_int32, [c_void_p], "llama_n_vocab"),
    "llama_vocab_bos": CFunction(c_int32, [c_void_p], "llama_token_bos"),
    "llama_vocab_eos": CFunction(c_int32, [c_void_p], "llama_token_eos"),
    "llama_vocab_get_add_bos": CFunction(c_int32, [c_void_p], "llama_add_bos_token"),
    "llama_vocab_is_eog": CFunction(c_bool, [c_void_p, c_int32], "llama_token_is_eog"),
    "llama_vocab_is_control": CFunction(c_bool, [c_void_p, c_int32], "llama_token_is_control"),
    "llama_vocab_get_attr": CFunction(c_int32, [c_void_p, c_int32], "llama_token_get_attr"),
    "llama_vocab_get_text": CFunction(c_char_p, [c_void_p, c_int32], "llama_token_get_text"),
    "llama_tokenize": CFunction(c_int32, [c_void_p, c_char_p, c_int32, c_void_p, c_int32, c_bool, c_bool]),
    "llama_token_to_piece": CFunction(c_int32, [c_void_p, c_int32, c_void_p, c_int32, c_int32, c_bool]),
    "sequence_state_size": CFunction(c_size_t, [c_void_p, c_int32, c_uint32], "llama_state_seq_get_size"),
    "get_sequence_state": CFunction(c_size_t, _STATE_ARGUMENTS, "llama_state_seq_get_data"),
    "set_sequence_state": CFunction(c_size_t, _STATE_ARGUMENTS, "llama_state_seq_set_data"),
}

MODEL_DEFAULTS: Defaults = {
    "devices": None,
    "n_gpu_layers": 0,
    "split_mode": 1,
    "main_gpu": 0,
    "type_k": _KV_TYPE_F16,
    "type_v": _KV_TYPE_F16,
    "max_ctx_size": 0,
    "n_seq_max": 1,
    "n_ubatch": 512,
    "type_k_first": _KV_TYPE_F16,
    "n_k_first": -1,
    "n_v_last": -1,
    "tensor_split": None,
    "progress_callback": None,
    "kv_overrides": None,
    "tensor_buft_overrides": None,
    "vocab_only": False,
    "use_mmap": True,
    "use_mlock": False,
    "repack_tensors": False,
    "flash_attn": True,
}

CONTEXT_DEFAULTS: Defaults = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_threads": 4,
    "n_threads_batch": 4,
    "max_extra_alloc": 256,
    "worst_case_tokens": 0,
    "rope_scaling_type": -1,
    "pooling_type": -1,
    "attention_type": -1,
    "rope_freq_base": 0.0,
    "rope_freq_scale": 0.0,
    "yarn_ext_factor": -1.0,
    "yarn_attn_factor": -1.0,
    "yarn_orig_ctx": 0,
    "defrag_thold": -1.0,
    "cb_eval": None,
    "type_k": _KV_TYPE_F16,
    "type_v": _KV_TYPE_F16,
    "n_k_first": -1,
    "n_v_last": -1,
    "logits_all": False,
    "embeddings": False,
    "offload_kqv": True,
    "flash_attn": True,
    "mla_attn": 3,
    "fused_up_gate": True,
    "graph_reuse": True,
    "min_experts": -1,
    "thresh_experts": 0.0,
    "mtp": False,
    "abort_callback": None,
    "offload_policy": None,
    "cuda_params": None,
}
