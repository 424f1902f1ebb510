"""ik_llama.cpp, a fork of llama.cpp with faster kernels for processors, behind llama.cpp's newer function names.

The layouts are those of the llama.h inside the pinned ik-llama-cpp-python wheel. The fork has kept the C API of 2024:
a context owns its KV cache, the vocabulary belongs to the model, and a batch needs contiguous free cells.
"""

from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from dragoman.engines.llama.native.libraries.binding import (
    CFunction,
    ContextOptions,
    Defaults,
    Functions,
    Library,
    LibraryError,
    LogCallback,
    package_folder,
)

PINNED = "ik-llama-cpp-python 0.1.5"

_KV_TYPE_F16 = 1
_WHOLE_STATE = 0

_NO_SEQUENCE = -1
"""A sequence id that no sequence has."""

_CANNOT_COMPACT = -100
"""The status of llama_decode instead of a wrong result. The fork's own statuses are few and near zero."""

BLOCK_CELLS = 32
"""Without flash attention, its attention passes over whole blocks of this number of cells."""


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

_FUNCTIONS: Functions = {
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

_MODEL_DEFAULTS: Defaults = {
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

_CONTEXT_DEFAULTS: Defaults = {
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


def packaged_ik_llama_cpp() -> Path:
    """Find the library inside the installed wheel without importing it. Raises LibraryError."""
    folder = package_folder("ik_llama_cpp")
    if folder is None:
        raise LibraryError(f"ik_llama.cpp is missing: the package {PINNED} is not installed; run `make setup`")
    return folder / "lib" / "libllama.so"


class IkLlamaCpp(Library):
    """ik_llama.cpp. Its sums depend on the rest of the batch."""

    batch_type = IkLlamaBatch
    pinned = PINNED
    functions = _FUNCTIONS
    model_defaults = _MODEL_DEFAULTS
    context_defaults = _CONTEXT_DEFAULTS
    supports_reproducible = False
    supports_lora = False
    supports_recurrent = False

    @property
    def files(self) -> tuple[Path, ...]:
        libraries_folder = self.path.parent.parent.parent / "ik_llama_cpp_python.libs"
        return (self.path, *sorted(libraries_folder.glob("libggml*")))

    def version(self) -> str:
        return PINNED

    def context_params(self, options: ContextOptions) -> Structure:
        params: IkLlamaContextParams = self.llama_context_default_params()
        params.n_ctx = options.context_cells
        params.n_batch = params.n_ubatch = options.batch_tokens
        params.n_threads = params.n_threads_batch = options.threads
        # Its flash attention skips the cells after the last block whose first cell the last query may see. That is
        # correct for one sequence in order, and wrong for interleaved ones.
        params.flash_attn = False
        return params

    def compact(self, context: int) -> bool:
        self.queue_compaction(context)
        return bool(self.run_queued(context) == 0)

    def llama_decode(self, context: int, batch: Structure) -> int:
        """Decode into the first free cells.

        The fork searches from the cells it used last, but attention passes over all cells up to the highest used one.
        """
        while overlooks_last_cells(self._used_cells(context)):
            if not self.compact(context):
                return _CANNOT_COMPACT
        self.llama_memory_seq_cp(context, _NO_SEQUENCE, _NO_SEQUENCE - 1, 0, 0)  # Makes it search from the first cell.
        return int(self.decode_behind_last(context, batch))

    def _used_cells(self, context: int) -> npt.NDArray[np.intp]:
        """Return the indices of the KV cells that hold a token, in ascending order."""
        count: int = self.llama_n_ctx(context)
        positions, sequences = np.empty((2, count), dtype=np.int32)
        view = IkLlamaCacheView(count, 1, cells=positions.ctypes.data, cells_sequences=sequences.ctypes.data)
        self.view_cells(context, byref(view))
        return (positions >= 0).nonzero()[0]

    def llama_get_memory(self, context: int) -> int:
        """Return the context, which is its own memory."""
        return context

    def llama_model_get_vocab(self, model: int) -> int:
        """Return the model, which the functions of the vocabulary take."""
        return model

    def llama_model_n_swa(self, _model: int) -> int:
        """Return 0: cells outside a sliding window are kept like all others."""
        return 0

    def llama_model_is_diffusion(self, _model: int) -> bool:
        """Return False: no such architecture can be loaded."""
        return False

    def llama_set_adapters_lora(self, _context: int, _adapters: object, count: int, _scales: object) -> int:
        """Accept only an empty list: with matrices of low rank the results are wrong or not finite."""
        return -1 if count else 0

    def llama_state_seq_get_size(self, context: int, sequence_id: int) -> int:
        """Return the number of bytes of the sequence's cells."""
        return int(self.sequence_state_size(context, sequence_id, _WHOLE_STATE))

    def llama_state_seq_get_data(self, context: int, into: int, size: int, sequence_id: int) -> int:
        """Return the number of bytes written."""
        return int(self.get_sequence_state(context, into, size, sequence_id, _WHOLE_STATE))

    def llama_state_seq_set_data(self, context: int, state: int, size: int, sequence_id: int) -> int:
        """Return the number of bytes read. 0 if there is no room."""
        return int(self.set_sequence_state(context, state, size, sequence_id, _WHOLE_STATE))


def overlooks_last_cells(used: npt.NDArray[np.intp]) -> bool:
    """Return whether attention might end before the highest used cell, wherever the next batch is put.

    It checks the last cell of each block from the top down until one is used, and then searches the block above it. It
    misses the highest cell if the last cell of its block is free and that of the block below is free too. Then tokens
    are computed without the ones just before them.

    `used` has the indices of the used cells, in ascending order. A batch goes into free cells below the highest one or
    right above it, and neither causes this where it was not so before.
    """
    if not len(used):
        return False
    highest = int(used[-1])
    block_start = highest - highest % BLOCK_CELLS
    ends_block = highest == block_start + BLOCK_CELLS - 1
    return block_start > 0 and not ends_block and bool(used[used.searchsorted(block_start) - 1] != block_start - 1)
