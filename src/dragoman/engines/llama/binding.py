"""llama.cpp's C API through ctypes: the structs, the functions used, and the check that both fit the library.

The layouts are those of llama.h at build 11063, which the pinned xllamacpp wheel exports. Another build may lay its
structs out differently and would abort the process on first use, so `Library` compares the defaults the library
returns with known ones before anything else is called.
"""

import ctypes
import importlib.util
from collections import deque
from collections.abc import Callable
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any, ClassVar

PINNED = "xllamacpp 2026.9.11063"

KV_TYPE_F16 = 1
KV_TYPE_BF16 = 30
FLASH_ATTENTION_ON = 1

LOG_LEVEL_WARNING = 3
LOG_LEVEL_CONTINUE = 5


class LibraryError(Exception):
    """llama.cpp's library is missing or is not the build this binding was written for. One line for a person."""


class ModelParams(Structure):
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


class ContextParams(Structure):
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


class Batch(Structure):
    """struct llama_batch; the pointers lead into arrays the caller keeps alive."""

    _fields_: ClassVar = [
        ("n_tokens", c_int32),
        ("token", c_void_p),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", c_void_p),
    ]


_LogCallback = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)

_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "llama_model_default_params": (ModelParams, []),
    "llama_context_default_params": (ContextParams, []),
    "llama_log_set": (None, [_LogCallback, c_void_p]),
    "llama_backend_init": (None, []),
    "llama_version": (c_char_p, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, ModelParams]),
    "llama_model_free": (None, [c_void_p]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_model_n_ctx_train": (c_int32, [c_void_p]),
    "llama_model_chat_template": (c_char_p, [c_void_p, c_char_p]),
    "llama_model_has_encoder": (c_bool, [c_void_p]),
    "llama_model_is_recurrent": (c_bool, [c_void_p]),
    "llama_model_is_hybrid": (c_bool, [c_void_p]),
    "llama_model_is_diffusion": (c_bool, [c_void_p]),
    "llama_init_from_model": (c_void_p, [c_void_p, ContextParams]),
    "llama_free": (None, [c_void_p]),
    "llama_n_ctx": (c_uint32, [c_void_p]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_clear": (None, [c_void_p, c_bool]),
    "llama_memory_seq_rm": (c_bool, [c_void_p, c_int32, c_int32, c_int32]),
    "llama_memory_seq_cp": (None, [c_void_p, c_int32, c_int32, c_int32, c_int32]),
    "llama_state_seq_get_size": (c_size_t, [c_void_p, c_int32]),
    "llama_state_seq_get_data": (c_size_t, [c_void_p, c_void_p, c_size_t, c_int32]),
    "llama_state_seq_set_data": (c_size_t, [c_void_p, c_void_p, c_size_t, c_int32]),
    "llama_adapter_lora_init": (c_void_p, [c_void_p, c_char_p]),
    "llama_adapter_lora_free": (None, [c_void_p]),
    "llama_set_adapters_lora": (c_int32, [c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_float)]),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_get_logits": (POINTER(c_float), [c_void_p]),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_vocab_bos": (c_int32, [c_void_p]),
    "llama_vocab_eos": (c_int32, [c_void_p]),
    "llama_vocab_get_add_bos": (c_bool, [c_void_p]),
    "llama_vocab_is_eog": (c_bool, [c_void_p, c_int32]),
    "llama_vocab_is_control": (c_bool, [c_void_p, c_int32]),
    "llama_tokenize": (c_int32, [c_void_p, c_char_p, c_int32, c_void_p, c_int32, c_bool, c_bool]),
    "llama_token_to_piece": (c_int32, [c_void_p, c_int32, c_void_p, c_int32, c_int32, c_bool]),
}

_MODEL_DEFAULTS: dict[str, object] = {
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

_CONTEXT_DEFAULTS: dict[str, object] = {
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
    "type_k": KV_TYPE_F16,
    "type_v": KV_TYPE_F16,
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


def packaged_library() -> Path:
    """Path of the library inside the installed xllamacpp wheel, found without importing it. Raises LibraryError."""
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise LibraryError(f"llama.cpp is missing: the package {PINNED} is not installed; run `make setup`")
    library = next(Path(spec.origin).parent.glob("xllamacpp.*so"), None)
    if library is None:
        raise LibraryError(f"llama.cpp is missing: the installed xllamacpp has no library; install {PINNED}")
    return library


class Library:
    """The loaded library. Its C functions are attributes under their C names; calls release the GIL."""

    def __init__(self, path: Path) -> None:
        """Load and verify. Raises LibraryError when the file cannot be loaded or lays its structs out differently."""
        self.path = path
        self.recent_log: deque[str] = deque(maxlen=20)
        """The last warnings and errors llama.cpp logged, oldest first."""
        try:
            library = ctypes.CDLL(str(path))
            for name, (result, arguments) in _FUNCTIONS.items():
                function = getattr(library, name)
                function.restype = result
                function.argtypes = arguments
                setattr(self, name, function)
        except (OSError, AttributeError) as error:
            raise LibraryError(f"{path} is not a usable llama.cpp library: {error}") from error
        self._verify("llama_model_params", self.llama_model_default_params(), _MODEL_DEFAULTS)
        self._verify("llama_context_params", self.llama_context_default_params(), _CONTEXT_DEFAULTS)
        # ctypes frees a callback with its last reference, and llama.cpp would then call into freed memory.
        self._log_callback = _LogCallback(self._log)
        self._last_level = 0
        self.llama_log_set(self._log_callback, None)
        self.llama_backend_init()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(f"{name} is not bound; add it to binding._FUNCTIONS")

    def version(self) -> str:
        """The library's own version text."""
        return str(self.llama_version().decode())

    def _verify(self, struct: str, actual: Structure, expected: dict[str, object]) -> None:
        for field, value in expected.items():
            if (found := getattr(actual, field)) != value:
                raise LibraryError(
                    f"{self.path} is another build of llama.cpp than this server was written for ({PINNED}): "
                    f"the default of {struct}.{field} is {found}, expected {value}"
                )

    def _log(self, level: int, text: bytes, _user_data: object) -> None:
        level = self._last_level if level == LOG_LEVEL_CONTINUE else level
        self._last_level = level
        if level >= LOG_LEVEL_WARNING and (line := text.decode(errors="replace").strip()):
            self.recent_log.append(line)
