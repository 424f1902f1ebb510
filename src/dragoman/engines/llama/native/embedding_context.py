"""One llama_context that returns a vector for each sequence of a batch."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.native.backend import DecodeError
from dragoman.engines.llama.native.libraries.binding import MAX_SEQUENCE_IDS, EmbeddingOptions
from dragoman.engines.llama.native.model import Model, ModelError
from dragoman.engines.llama.weights.model_kind import RANK_POOLING

Vectors = npt.NDArray[np.float32]
"""float32[sequences, width]."""


class EmbeddingContext:
    """A llama_context for embeddings. It keeps nothing from one batch to the next. Not thread-safe."""

    max_sequences = MAX_SEQUENCE_IDS
    """The most sequences of a batch."""

    def __init__(self, model: Model, options: EmbeddingOptions, longest: int) -> None:
        """Allocate the compute buffers. Raises ModelError when there is no memory for them."""
        self.longest = longest
        """The most tokens of a sequence."""
        self.model = model
        """The one that computes."""
        library = self.library = model.library
        self._context: int = library.llama_init_from_model(model.handle, library.embedding_params(options))
        if not self._context:
            raise ModelError(
                f"no context for embeddings of {options.batch_tokens} tokens could be allocated: "
                f"{'; '.join(library.recent_log) or 'no reason was logged'}; try a smaller --kv-cache-tokens"
            )
        self.batch_tokens = options.batch_tokens
        self._threads = options.threads
        self._memory = library.embedding_memory(self._context)
        ranks = options.pooling == RANK_POOLING
        count = library.llama_model_n_cls_out if ranks else library.llama_model_n_embd_out
        self.width = int(count(model.handle))
        """Values of a vector, or of a reranker's output."""
        size = options.batch_tokens + 1
        self._tokens = np.zeros(size, dtype=np.int32)
        self._positions = np.zeros(size, dtype=np.int32)
        self._sequence_ids = np.zeros(size, dtype=np.int32)
        self._ones = np.ones(size, dtype=np.int32)
        self._outputs = np.ones(size, dtype=np.int8)
        self._sequence_pointers = self._sequence_ids.ctypes.data + 4 * np.arange(size, dtype=np.int64)
        self._batch = library.batch_type(
            0,
            self._tokens.ctypes.data,
            None,
            self._positions.ctypes.data,
            self._ones.ctypes.data,
            self._sequence_pointers.ctypes.data,
            self._outputs.ctypes.data,
        )

    def compute(self, sequences: Sequence[TokenArray]) -> Vectors:
        """Compute one vector for each sequence. Raises DecodeError.

        All together have at most `batch_tokens` tokens. A single sequence may be longer if the model is causal.
        """
        if len(sequences) == 1:
            [sequence] = sequences
            for start in range(0, len(sequence), self.batch_tokens):
                self._decode([sequence[start : start + self.batch_tokens]], start)
        else:
            self._decode(sequences, 0)
        read = self.library.llama_get_embeddings_seq
        vectors = [
            np.ctypeslib.as_array(read(self._context, number), (self.width,)) for number in range(len(sequences))
        ]
        copied = np.stack(vectors)
        if self._memory is not None:
            # Values that are no numbers would spoil later batches, even in cells that are free.
            self.library.llama_memory_clear(self._memory, not np.isfinite(copied).all())
        return copied

    def _decode(self, sequences: Sequence[TokenArray], position: int) -> None:
        filled = 0
        for number, sequence in enumerate(sequences):
            end = filled + len(sequence)
            self._tokens[filled:end] = sequence
            self._positions[filled:end] = np.arange(position, position + len(sequence))
            self._sequence_ids[filled:end] = number
            filled = end
        if filled == self.library.miscomputed_tokens:
            # One more token, of a sequence that nobody reads.
            self._tokens[filled], self._positions[filled], self._sequence_ids[filled] = 0, 0, len(sequences)
            filled += 1
        self._batch.n_tokens = filled
        if (status := self.library.decode_for_embeddings(self._context, self._batch)) != 0:
            raise DecodeError(f"llama_decode returned {status} for {filled} tokens of {len(sequences)} sequences")

    def use_threads(self, threads: int) -> None:
        """Compute with so many threads from now on."""
        if threads != self._threads:
            self._threads = threads
            self.library.llama_set_n_threads(self._context, threads, threads)

    def close(self) -> None:
        """Free the buffers."""
        self.library.llama_free(self._context)
