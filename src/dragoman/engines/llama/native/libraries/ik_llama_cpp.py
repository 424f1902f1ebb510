"""ik_llama.cpp, a fork of llama.cpp with faster kernels for processors, behind llama.cpp's newer function names.

The fork has kept the C API of 2024: a context owns its KV cache, the vocabulary belongs to the model, and a batch needs
contiguous free cells.
"""

from ctypes import Structure, byref
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dragoman.engines.llama.native.libraries.binding import (
    MAX_SEQUENCE_IDS,
    ContextOptions,
    EmbeddingOptions,
    Library,
    LibraryError,
    package_folder,
)
from dragoman.engines.llama.native.libraries.ik_llama_layouts import (
    CONTEXT_DEFAULTS,
    FUNCTIONS,
    MODEL_DEFAULTS,
    IkLlamaBatch,
    IkLlamaCacheView,
    IkLlamaContextParams,
)

PINNED = "ik-llama-cpp-python 0.1.5"

_WHOLE_STATE = 0

_NO_SEQUENCE = -1
"""A sequence id that no sequence has."""

_CANNOT_COMPACT = -100
"""The status of llama_decode instead of a wrong result. The fork's own statuses are few and near zero."""

BLOCK_CELLS = 32
"""Without flash attention, its attention passes over whole blocks of this number of cells."""


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
    functions = FUNCTIONS
    model_defaults = MODEL_DEFAULTS
    context_defaults = CONTEXT_DEFAULTS
    supports_reproducible = False
    has_flash_attention = False
    supports_lora = False
    supports_recurrent = False
    # Its kernels for floats multiply matrices with an inner dimension of 4 wrongly. In an encoder without a cache, the
    # tokens of a batch are such a dimension of the attention and of the mean.
    miscomputed_tokens = 4

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

    def embedding_params(self, options: EmbeddingOptions) -> Structure:
        params: IkLlamaContextParams = self.llama_context_default_params()
        params.n_ctx = options.context_cells
        params.n_batch = params.n_ubatch = max(options.batch_tokens, self.miscomputed_tokens + 1)
        params.n_seq_max = MAX_SEQUENCE_IDS
        params.n_threads = params.n_threads_batch = options.threads
        params.embeddings = True
        params.pooling_type = options.pooling
        params.flash_attn = False
        return params

    def embedding_memory(self, _context: int) -> None:
        """Return None: it computes embeddings of encoders only, whose tokens are not cached."""
        return

    def decode_for_embeddings(self, context: int, batch: Structure) -> int:
        return int(self.decode_behind_last(context, batch))

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
