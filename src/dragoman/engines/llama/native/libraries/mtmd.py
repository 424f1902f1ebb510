"""mtmd, the part of llama.cpp that turns images into embeddings: its structs and functions at build 11063.

The library of llama.cpp contains it. Its image decoder is not bound: that one reads untrusted files in C.
"""

import ctypes
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint32, c_void_p
from typing import Any, ClassVar

from dragoman.engines.llama.native.libraries.binding import CFunction, Functions, Library, LibraryError, LogCallback

IMAGE_CHUNK = 1
"""MTMD_INPUT_CHUNK_TYPE_IMAGE. 0 is text."""

_DEFAULT_BATCH_TOKENS = 1024


class MtmdContextParams(Structure):
    """struct mtmd_context_params."""

    _fields_: ClassVar = [
        ("use_gpu", c_bool),
        ("device", c_void_p),
        ("print_timings", c_bool),
        ("n_threads", c_int),
        ("image_marker", c_char_p),
        ("media_marker", c_char_p),
        ("flash_attn_type", c_int),
        ("warmup", c_bool),
        ("image_min_tokens", c_int),
        ("image_max_tokens", c_int),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("batch_max_tokens", c_int32),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
    ]


class MtmdInputText(Structure):
    """struct mtmd_input_text."""

    _fields_: ClassVar = [
        ("text", c_char_p),
        ("text_len", c_size_t),
        ("add_special", c_bool),
        ("parse_special", c_bool),
    ]


class MtmdDecoderPosition(Structure):
    """struct mtmd_decoder_pos."""

    _fields_: ClassVar = [("t", c_uint32), ("x", c_uint32), ("y", c_uint32), ("z", c_uint32)]


_FUNCTIONS: Functions = {
    "mtmd_context_params_default": CFunction(MtmdContextParams, []),
    "mtmd_log_set": CFunction(None, [LogCallback, c_void_p]),
    "mtmd_init_from_file": CFunction(c_void_p, [c_char_p, c_void_p, MtmdContextParams]),
    "mtmd_free": CFunction(None, [c_void_p]),
    "mtmd_support_vision": CFunction(c_bool, [c_void_p]),
    "mtmd_decode_use_mrope": CFunction(c_bool, [c_void_p]),
    "mtmd_decode_use_non_causal": CFunction(c_bool, [c_void_p, c_void_p]),
    "mtmd_get_marker": CFunction(c_char_p, [c_void_p]),
    "mtmd_bitmap_init": CFunction(c_void_p, [c_uint32, c_uint32, c_char_p]),
    "mtmd_bitmap_free": CFunction(None, [c_void_p]),
    "mtmd_input_chunks_init": CFunction(c_void_p, []),
    "mtmd_input_chunks_free": CFunction(None, [c_void_p]),
    "mtmd_input_chunks_size": CFunction(c_size_t, [c_void_p]),
    "mtmd_input_chunks_get": CFunction(c_void_p, [c_void_p, c_size_t]),
    "mtmd_input_chunk_get_type": CFunction(c_int, [c_void_p]),
    "mtmd_input_chunk_get_n_tokens": CFunction(c_size_t, [c_void_p]),
    "mtmd_input_chunk_get_n_pos": CFunction(c_int32, [c_void_p]),
    "mtmd_input_chunk_get_tokens_image": CFunction(c_void_p, [c_void_p]),
    "mtmd_image_tokens_get_decoder_pos": CFunction(MtmdDecoderPosition, [c_void_p, c_int32, c_size_t]),
    "mtmd_input_chunk_get_tokens_text": CFunction(POINTER(c_int32), [c_void_p, POINTER(c_size_t)]),
    "mtmd_tokenize": CFunction(c_int32, [c_void_p, c_void_p, POINTER(MtmdInputText), POINTER(c_void_p), c_size_t]),
    "mtmd_encode_chunk": CFunction(c_int32, [c_void_p, c_void_p]),
    "mtmd_get_output_embd": CFunction(POINTER(c_float), [c_void_p]),
    "llama_model_n_embd_inp": CFunction(c_int32, [c_void_p]),
}

_DEFAULTS = {
    "use_gpu": True,
    "device": None,
    "n_threads": 4,
    "image_marker": None,
    "media_marker": b"<__media__>",
    "flash_attn_type": -1,
    "image_min_tokens": -1,
    "image_max_tokens": -1,
    "cb_eval": None,
    "batch_max_tokens": _DEFAULT_BATCH_TOKENS,
    "progress_callback": None,
}


class Mtmd:
    """The functions for images of a loaded library, as attributes under their own names. Calls release the GIL."""

    def __init__(self, library: Library) -> None:
        """Raises LibraryError when the library has no such functions, or other structs."""
        try:
            handle = ctypes.CDLL(str(library.path))
            for name, (result, arguments, _symbol) in _FUNCTIONS.items():
                function = getattr(handle, name)
                function.restype = result
                function.argtypes = arguments
                setattr(self, name, function)
        except (OSError, AttributeError) as error:
            raise LibraryError(f"{library.path} cannot read images: {error}; serve the model without mmproj") from error
        params = self.mtmd_context_params_default()
        for field, value in _DEFAULTS.items():
            if getattr(params, field) != value:
                raise LibraryError(f"{library.path} has another mtmd than that of {library.pinned}: {field} differs")
        self.mtmd_log_set(library.log_callback, None)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name} is not bound; add it to the functions of Mtmd")
