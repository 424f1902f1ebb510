"""llama.cpp itself, from the pinned xllamacpp wheel: its structs, functions and defaults.

The layouts are those of llama.h at build 11063.
"""

from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import ClassVar

from dragoman.engines.llama.native.libraries.binding import (
    MAX_SEQUENCE_IDS,
    CFunction,
    ContextOptions,
    Defaults,
    EmbeddingOptions,
    Functions,
    Library,
    LibraryError,
    LogCallback,
    package_folder,
)

PINNED = "xllamacpp 2026.9.11063"

_KV_TYPE_F16 = 1
_KV_TYPE_BF16 = 30
_FLASH_ATTENTION_ON = 1


class LlamaModelParams(Structure):
    """struct llama_model_params."""

    _fields_: ClassVar = [
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int),
        ("load_mode", c_int),
        ("lazy_mode", c_int),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    ]


class LlamaContextParams(Structure):
    """struct llama_context_params."""

    _fields_: ClassVar = [
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int),
        ("rope_scaling_type", c_int),
        ("pooling_type", c_int),
        ("attention_type", c_int),
        ("flash_attn_type", c_int),
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
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    ]


class LlamaBatch(Structure):
    """struct llama_batch. Its pointers refer to arrays that the caller keeps alive."""

    _fields_: ClassVar = [
        ("n_tokens", c_int32),
        ("token", c_void_p),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", c_void_p),
    ]


_FUNCTIONS: Functions = {
    "llama_model_default_params": CFunction(LlamaModelParams, []),
    "llama_context_default_params": CFunction(LlamaContextParams, []),
    "llama_log_set": CFunction(None, [LogCallback, c_void_p]),
    "llama_backend_init": CFunction(None, []),
    "llama_version": CFunction(c_char_p, []),
    "llama_model_load_from_file": CFunction(c_void_p, [c_char_p, LlamaModelParams]),
    "llama_model_free": CFunction(None, [c_void_p]),
    "llama_model_get_vocab": CFunction(c_void_p, [c_void_p]),
    "llama_model_n_ctx_train": CFunction(c_int32, [c_void_p]),
    "llama_model_n_swa": CFunction(c_int32, [c_void_p]),
    "llama_model_n_embd_out": CFunction(c_int32, [c_void_p]),
    "llama_model_n_cls_out": CFunction(c_uint32, [c_void_p]),
    "llama_model_cls_label": CFunction(c_char_p, [c_void_p, c_uint32]),
    "llama_model_chat_template": CFunction(c_char_p, [c_void_p, c_char_p]),
    "llama_model_has_encoder": CFunction(c_bool, [c_void_p]),
    "llama_model_is_recurrent": CFunction(c_bool, [c_void_p]),
    "llama_model_is_hybrid": CFunction(c_bool, [c_void_p]),
    "llama_model_is_diffusion": CFunction(c_bool, [c_void_p]),
    "llama_init_from_model": CFunction(c_void_p, [c_void_p, LlamaContextParams]),
    "llama_free": CFunction(None, [c_void_p]),
    "llama_set_n_threads": CFunction(None, [c_void_p, c_int32, c_int32]),
    "llama_n_ctx": CFunction(c_uint32, [c_void_p]),
    "llama_get_memory": CFunction(c_void_p, [c_void_p]),
    "llama_memory_clear": CFunction(None, [c_void_p, c_bool]),
    "llama_memory_seq_rm": CFunction(c_bool, [c_void_p, c_int32, c_int32, c_int32]),
    "llama_memory_seq_pos_min": CFunction(c_int32, [c_void_p, c_int32]),
    "llama_memory_seq_cp": CFunction(None, [c_void_p, c_int32, c_int32, c_int32, c_int32]),
    "llama_state_seq_get_size": CFunction(c_size_t, [c_void_p, c_int32]),
    "llama_state_seq_get_data": CFunction(c_size_t, [c_void_p, c_void_p, c_size_t, c_int32]),
    "llama_state_seq_set_data": CFunction(c_size_t, [c_void_p, c_void_p, c_size_t, c_int32]),
    "llama_adapter_lora_init": CFunction(c_void_p, [c_void_p, c_char_p]),
    "llama_adapter_lora_free": CFunction(None, [c_void_p]),
    "llama_set_adapters_lora": CFunction(c_int32, [c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_float)]),
    "llama_decode": CFunction(c_int32, [c_void_p, LlamaBatch]),
    "llama_set_causal_attn": CFunction(None, [c_void_p, c_bool]),
    "llama_get_logits": CFunction(POINTER(c_float), [c_void_p]),
    "llama_get_embeddings_seq": CFunction(POINTER(c_float), [c_void_p, c_int32]),
    "llama_vocab_n_tokens": CFunction(c_int32, [c_void_p]),
    "llama_vocab_bos": CFunction(c_int32, [c_void_p]),
    "llama_vocab_eos": CFunction(c_int32, [c_void_p]),
    "llama_vocab_sep": CFunction(c_int32, [c_void_p]),
    "llama_vocab_get_add_bos": CFunction(c_bool, [c_void_p]),
    "llama_vocab_get_add_eos": CFunction(c_bool, [c_void_p]),
    "llama_vocab_get_add_sep": CFunction(c_bool, [c_void_p]),
    "llama_vocab_is_eog": CFunction(c_bool, [c_void_p, c_int32]),
    "llama_vocab_is_control": CFunction(c_bool, [c_void_p, c_int32]),
    "llama_vocab_get_attr": CFunction(c_int32, [c_void_p, c_int32]),
    "llama_vocab_get_text": CFunction(c_char_p, [c_void_p, c_int32]),
    "llama_tokenize": CFunction(c_int32, [c_void_p, c_char_p, c_int32, c_void_p, c_int32, c_bool, c_bool]),
    "llama_token_to_piece": CFunction(c_int32, [c_void_p, c_int32, c_void_p, c_int32, c_int32, c_bool]),
}

_MODEL_DEFAULTS: Defaults = {
    "devices": None,
    "tensor_buft_overrides": None,
    "n_gpu_layers": -1,
    "split_mode": 1,
    "main_gpu": 0,
    "tensor_split": None,
    "progress_callback": None,
    "kv_overrides": None,
    "vocab_only": False,
    "check_tensors": False,
    "use_extra_bufts": True,
    "no_host": False,
    "no_alloc": False,
}

_CONTEXT_DEFAULTS: Defaults = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_threads": 4,
    "n_threads_batch": 4,
    "rope_scaling_type": -1,
    "pooling_type": -1,
    "attention_type": -1,
    "flash_attn_type": -1,
    "rope_freq_base": 0.0,
    "rope_freq_scale": 0.0,
    "yarn_ext_factor": -1.0,
    "yarn_attn_factor": -1.0,
    "yarn_beta_fast": -1.0,
    "yarn_beta_slow": -1.0,
    "yarn_orig_ctx": 0,
    "cb_eval": None,
    "type_k": _KV_TYPE_F16,
    "type_v": _KV_TYPE_F16,
    "abort_callback": None,
    "embeddings": False,
    "offload_kqv": True,
    "op_offload": True,
    "swa_full": True,
    "kv_unified": False,
    "samplers": None,
    "n_samplers": 0,
    "ctx_other": None,
}


def packaged_llama_cpp() -> Path:
    """Find the library inside the installed xllamacpp wheel without importing it. Raises LibraryError."""
    folder = package_folder("xllamacpp")
    if folder is None:
        raise LibraryError(f"llama.cpp is missing: the package {PINNED} is not installed; run `make setup`")
    library = next(folder.glob("xllamacpp.*so"), None)
    if library is None:
        raise LibraryError(f"llama.cpp is missing: the installed xllamacpp has no library; install {PINNED}")
    return library


class LlamaCpp(Library):
    """llama.cpp. It computes every architecture it knows, adapters, and reproducible attention."""

    batch_type = LlamaBatch
    pinned = PINNED
    functions = _FUNCTIONS
    model_defaults = _MODEL_DEFAULTS
    context_defaults = _CONTEXT_DEFAULTS

    def version(self) -> str:
        return str(self.llama_version().decode())

    def context_params(self, options: ContextOptions) -> Structure:
        params: LlamaContextParams = self.llama_context_default_params()
        params.n_ctx = options.context_cells
        params.n_batch = params.n_ubatch = options.batch_tokens
        params.n_seq_max = options.sequence_ids
        # llama.cpp reserves a row of logits for each sequence id; with room for fewer it aborts the process.
        params.n_outputs_max = max(options.batch_tokens, options.sequence_ids)
        params.n_threads = params.n_threads_batch = options.threads
        params.flash_attn_type = _FLASH_ATTENTION_ON
        # Without a unified cache a partial llama_memory_seq_cp is a failed assertion, which aborts the process.
        params.kv_unified = True
        if options.reproducible:
            # With K and V of different types ggml uses its one-query attention kernel for every batch. That kernel
            # sums a sequence's own cells in order, wherever they are; the sums of the tiled kernel depend on both.
            params.type_v = _KV_TYPE_BF16
        return params

    def embedding_params(self, options: EmbeddingOptions) -> Structure:
        params: LlamaContextParams = self.llama_context_default_params()
        params.n_ctx = options.context_cells
        # Attention in both directions needs all tokens of a sequence in one physical batch.
        params.n_batch = params.n_ubatch = options.batch_tokens
        params.n_seq_max = MAX_SEQUENCE_IDS
        # All tokens are outputs, whether they are pooled or not.
        params.n_outputs_max = max(options.batch_tokens, MAX_SEQUENCE_IDS)
        params.n_threads = params.n_threads_batch = options.threads
        params.embeddings = True
        params.pooling_type = options.pooling
        # Other kernels compute the attention between all sequences of a batch before they drop it.
        params.flash_attn_type = _FLASH_ATTENTION_ON
        params.kv_unified = True
        return params
